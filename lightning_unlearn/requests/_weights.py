"""The weights of a network by their plain names, each tensor once, and how they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models import match_weights, merged
from lightning_unlearn.requests._digest import weights_digest
from lightning_unlearn.runtime import written_whole

Weights = dict[str, Tensor]
Build = Callable[[], nn.Module]


def plain_network(network: nn.Module) -> nn.Module:
    """``network``, or a copy with its adapter merged, if it has one."""
    return merged(network) if hasattr(network, "peft_config") else network


def plain_weights(network: nn.Module) -> Weights:
    """What ``network`` computes with, on the CPU: with its adapter merged, a tied weight once.

    Example:
        >>> list(plain_weights(nn.Linear(2, 1)))
        ['bias', 'weight']
    """
    plain = plain_network(network)
    found: dict[tuple[int, Any], str] = {}
    state = plain.state_dict()
    for name, tensor in sorted(state.items()):
        found.setdefault((tensor.data_ptr() or id(tensor), tensor.shape), name)
    return {name: state[name].detach().cpu().clone().contiguous() for name in found.values()}


@torch.no_grad()
def copy_(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give ``network`` these weights, under whichever of its names a tied one is. An adapter is set to add nothing.

    Raises:
        ValueError: If they are not of such a network.
    """
    own = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    for name, value in match_weights(weights, network, source="the weights of the sequence").items():
        own[name].copy_(value)


def write_(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give ``network`` weights that :func:`plain_weights` made.

    Raises:
        ValueError: If they are not of such a network, or it computes with others all the same.
    """
    copy_(network, weights)
    if weights_digest(plain_weights(network)) != weights_digest(weights):
        raise ValueError(
            "A network should be able to take the weights of the sequence as they are. Found that it has others then: its "
            "adapter takes a part of them out (PiSSA, OLoRA), or a tied head was untied when an adapter of it was merged. "
            "Use `LoRA(init_lora_weights=True, exclude_modules=['lm_head'])`."
        )


class Keeping(ABC):
    """What is kept of each request, so that its weights can be had again, bit for bit."""

    needs_adapter: ClassVar[bool] = False

    @abstractmethod
    def save(self, path: Path, network: nn.Module, weights: Weights) -> None:
        """Write what a request needs: ``network`` as it was trained, or its plain ``weights``."""

    @abstractmethod
    def load(self, start: Path, requests: Sequence[Path], build: Build) -> Weights:
        """The weights after the last of ``requests``, from what was saved for each and from those of the start."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class WholeWeights(Keeping):
    """All weights after each request. An adapter is merged into them, and the next request gets a new one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> layer = nn.Linear(2, 1)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "1.safetensors"
        ...     WholeWeights().save(path, layer, plain_weights(layer))
        ...     torch.equal(WholeWeights().load(path, [], lambda: layer)["weight"], layer.weight)
        True
    """

    @override
    def save(self, path: Path, network: nn.Module, weights: Weights) -> None:
        with written_whole(path) as new:
            save_file(weights, new)

    @override
    def load(self, start: Path, requests: Sequence[Path], build: Build) -> Weights:
        return load_file([start, *requests][-1])


class AdaptersAlone(Keeping):
    """The adapter of each request, a small file, and no other weights but those of the start.

    A request's weights are those of the start with the adapters up to it merged in turn, as they were when it was carried
    out: the same arithmetic gives the same bits on the same kind of machine, and the ledger's hash says whether it did.
    Takes a merge per request to load. The network needs an adapter, ``PretrainedCausalLM(..., lora=LoRA())``.
    """

    needs_adapter = True

    @override
    def save(self, path: Path, network: nn.Module, weights: Weights) -> None:
        from peft import get_peft_model_state_dict

        adapter = {
            name: t.detach().cpu().clone().contiguous() for name, t in get_peft_model_state_dict(network).items()
        }
        with written_whole(path) as new:
            save_file(adapter, new)

    @override
    def load(self, start: Path, requests: Sequence[Path], build: Build) -> Weights:
        weights: Weights = load_file(start)
        for path in requests:
            network = build()
            write_(network, weights)
            write_adapter_(network, load_file(path))
            weights = plain_weights(network)
        return weights


@torch.no_grad()
def write_adapter_(network: nn.Module, adapter: Mapping[str, Tensor]) -> None:
    """Give the adapter of ``network`` these weights."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(network, dict(adapter))
