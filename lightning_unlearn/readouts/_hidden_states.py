from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.models.layers import blocks, eager_if_inside_compiled, plain_name
from lightning_unlearn.prediction import IGNORED, Prediction
from lightning_unlearn.readouts._base import Readout
from lightning_unlearn.readouts._causal_lm import CausalLMReadout, _labels, _mask
from lightning_unlearn.readouts._language_model import inputs_of
from lightning_unlearn.readouts._packed_causal_lm import PackedCausalLMReadout


class HiddenStates(Prediction):
    """A :class:`Prediction` without logits: it has ``features [N, D]`` only."""

    @override
    def token_nll(self) -> Tensor:
        raise ValueError(
            "Likelihoods should be taken of a readout with logits. Found the hidden states of `HiddenStateReadout`: "
            "use it with `RMU` or `ActivationMatch`, and measure with `PackedCausalLMReadout()`."
        )


class HiddenStateReadout(Readout):
    r"""Run a causal language model up to one layer, and read its hidden states at the labelled tokens themselves.

    A label is read at the position of its own token, not at the position before, which predicts it: objectives steer how
    the answer is represented. ``features`` are ``[N, D]``; there are no logits.

    Later layers are not run. A forward hook on the layer raises a private exception, which ends the forward pass and is
    caught here; the hook is removed whatever happens. Where parameters are sharded the network runs to its end, since FSDP
    cleans up after whole forward passes only. Under plain DDP, later layers are unused parameters: freeze them, or use
    ``strategy="ddp_find_unused_parameters_true"``.

    Args:
        layer: The layer's name in the network, or the end of its name, as a regular expression that fits one module:
            ``"layers.7"``, ``r"h\.7"``.

    Raises:
        ValueError: If the name fits no module or several, or the module's output is not one hidden state per position.

    Example:
        >>> import torch
        >>> from lightning_unlearn import TinyCausalLM
        >>> batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])}
        >>> states = HiddenStateReadout("layers.1")(TinyCausalLM(hidden_size=32), batch)
        >>> states.features.shape, states.logits.shape, states.labels.tolist()
        (torch.Size([2, 32]), torch.Size([2, 0]), [6, 7])
    """

    def __init__(self, layer: str) -> None:
        try:
            self._pattern = re.compile(rf"(.*\.)?(?:{layer})")
        except re.error as error:
            raise ValueError(f"`layer` should be a regular expression. Found `layer = {layer!r}`: {error}.") from error
        self.layer = layer
        self._whole = CausalLMReadout()

    @override
    def find_network(self, module: nn.Module) -> nn.Module:
        """The first PEFT or Hugging Face model inside ``module``. Raises if it has no such layer."""
        network = self._whole.find_network(module)
        self._find(network)
        return network

    @override
    def __call__(self, network: nn.Module, batch: Any) -> HiddenStates:
        labels = _labels(batch)
        layer = self._find(network)
        read: list[Any] = []
        with _reading(layer, read, stop=not _is_sharded(network)), eager_if_inside_compiled(network, layer):
            network(**inputs_of(network, batch))
        states = self._states(read, labels)
        mask = _mask(batch, labels)
        chosen = labels != IGNORED if mask is None else (labels != IGNORED) & mask
        # No shift here: label and hidden state are of the same position. `features[:, :0]` are logits over no entries.
        features = states[chosen]
        return HiddenStates(features[:, :0], labels[chosen].long(), chosen.nonzero()[:, 0], len(labels), features)

    @override
    def for_measuring(self) -> Readout:
        """A readout with logits."""
        return PackedCausalLMReadout()

    @override
    def keys(self, batch: Any) -> list[str]:
        """As of every causal language model."""
        return self._whole.keys(batch)

    def _find(self, network: nn.Module) -> nn.Module:
        named: dict[str, nn.Module] = {plain_name(name): module for name, module in network.named_modules()}
        fitting = [name for name in named if self._pattern.fullmatch(name)]
        if len(fitting) == 1:
            return named[fitting[0]]
        candidates = ", ".join(f"`{plain_name(name)}`" for name in (fitting or list(blocks(network)))[:20])
        raise ValueError(
            f"`layer` should fit the name of one module. Found {len(fitting)} with `layer = {self.layer!r}`. "
            f"{'They are' if fitting else 'There are'} {candidates}."
        )

    def _states(self, read: list[Any], labels: Tensor) -> Tensor:
        states = read[-1] if read else None
        states = states[0] if isinstance(states, tuple) else states  # some blocks return a tuple, hidden states first
        if isinstance(states, Tensor) and states.dim() == 3 and _fits(states, labels):
            # Counted from the end: prompt tuning puts positions of its own before the batch's.
            return states[:, -labels.shape[1] :]
        found = f"shape {tuple(states.shape)}" if isinstance(states, Tensor) else f"a {type(states).__name__}"
        raise ValueError(
            f"The layer `{self.layer}` should give a hidden state per position, [B, T, D], [B, T] = {list(labels.shape)}. "
            f"Found {found}. Name a whole block."
        )


def _fits(states: Tensor, labels: Tensor) -> bool:
    return len(states) == len(labels) and states.shape[1] >= labels.shape[1]


class _Stop(Exception):
    """Not an error: ends the forward pass once the layer has been read."""


@contextmanager
def _reading(layer: nn.Module, read: list[Any], *, stop: bool) -> Iterator[None]:
    def hook(_: nn.Module, args: Any, output: Any) -> None:
        read.append(output)
        if stop:
            raise _Stop

    handle = layer.register_forward_hook(hook)
    try:
        yield
    except _Stop:
        pass
    finally:
        handle.remove()


def _is_sharded(network: nn.Module) -> bool:
    # By name in the class hierarchy: FSDP2 gives each module a class of its own, which inherits from `FSDPModule`.
    return any(
        {"FSDPModule", "FullyShardedDataParallel"} & {c.__name__ for c in type(m).__mro__} for m in network.modules()
    )
