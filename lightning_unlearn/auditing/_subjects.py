"""The models that are compared: one network, and the weights of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.checks import OtherModel
from lightning_unlearn.models import PretrainedCausalLM, load_weights, match_weights, merged
from lightning_unlearn.observation import Subject

_MODEL_FILES = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Subjects:
    """The audited network, and the weights of those it is compared with.

    Args:
        network: Holds the weights of the audited model.
        source: Where they come from.
        others: The original and the control, as far as there are any.
    """

    network: nn.Module
    source: str
    others: dict[Subject, OtherModel] = field(default_factory=dict)


def open_subjects(
    model: str | nn.Module,
    *,
    original: str | None = None,
    control: str | None = None,
    network: str | nn.Module | None = None,
) -> Subjects:
    """Build the network once, and read the weights of the others.

    Args:
        model: The model to audit: a Hugging Face folder, a hub id, a GGUF file, a folder with an adapter of PEFT (which is
            merged), a file of weights (a Lightning checkpoint, ``.safetensors``), or a network.
        original: The model before unlearning, likewise. Defaults to the base, if ``model`` is an adapter.
        control: A model that never knew, likewise.
        network: What weights in files belong to, or a whole model of the same kind. Not needed where one of the three is a
            whole model.

    Raises:
        ValueError: If nothing says how the network is built.
    """
    if isinstance(model, nn.Module):
        opened, base, source = model, None, f"the given `{type(model).__name__}`"
    elif _is_whole(model):
        opened, base = _opened(model)
        source = model
    else:
        opened, base, source = _network_for(model, (original, control), network), None, model
        _write_(opened, load_weights(model, opened))
    named: dict[Subject, str | None] = {"original": original or base, "control": control}
    return Subjects(opened, source, {s: _other(path, opened) for s, path in named.items() if path is not None})


def _network_for(model: str, others: tuple[str | None, ...], network: str | nn.Module | None) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    whole = [source for source in (network, *others) if source is not None and _is_whole(source)]
    if not whole:
        raise ValueError(
            "One of `model`, `original` and `control` should be a whole model, such as a Hugging Face folder or a hub id: "
            f"weights alone do not say how their network is built. Found `model = {model!r}`. Give the base model as "
            "`original`, or the bare network as `network`. The command line reads language models; a module of your own is "
            "audited in Python, by `lightning_unlearn.auditing.audit(..., network=YourModule())`, with your own data."
        )
    return _opened(whole[0])[0]


def _is_whole(source: str) -> bool:
    """Whether ``source`` says how its network is built: not a file of weights."""
    path = Path(source).expanduser()
    if path.is_dir():
        return any((path / name).is_file() for name in _MODEL_FILES)
    # What is not on the disk is a hub id, or a name that `PretrainedCausalLM` knows, or explains.
    return path.suffix == ".gguf" or not (
        path.exists() or path.suffix in (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
    )


def _opened(source: str) -> tuple[nn.Module, str | None]:
    """The model with its adapter merged, and the base that the adapter names, if there is one."""
    network: Any = PretrainedCausalLM(source)
    if not hasattr(network, "peft_config"):
        return network, None
    base = str(network.peft_config[network.active_adapter].base_model_name_or_path)
    # Whoever has the model has its weights: an attack should reach all of them, not the adapter alone.
    return merged(network).requires_grad_(True), base


def _other(source: str, network: nn.Module) -> OtherModel:
    if not _is_whole(source):
        return OtherModel(source, f"the weights in {source}")
    opened, _ = _opened(source)
    return OtherModel(match_weights(opened.state_dict(), network, source=f"`{source}`"), source)


@torch.no_grad()
def _write_(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    for name, value in weights.items():
        own[name].copy_(value)
