"""What the original predicted for one batch, kept in main memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.engine import gathered
from lightning_unlearn.functional.divergence import kl_divergence
from lightning_unlearn.models.layers import output_head
from lightning_unlearn.prediction import Likelihood, Prediction

_SAME = 1e-7
"""The largest divergence, in nats, between a head's logits and those of its copy: they may differ by rounding."""


class KeptPrediction(ABC):
    """What is left of a prediction, as small as can be."""

    @abstractmethod
    def logits(self, device: torch.device) -> Tensor:
        """The logits of the original, ``[N, V]``."""


@dataclass(frozen=True)
class KeptLogits(KeptPrediction):
    """The logits themselves.

    Args:
        values: ``[N, V]``, on the CPU.
    """

    values: Tensor

    def logits(self, device: torch.device) -> Tensor:
        """The logits of the original, ``[N, V]``."""
        return self.values.to(device)


@dataclass(frozen=True)
class Head:
    """A copy of a linear output head, on the CPU.

    Args:
        weight: ``[V, D]``.
        bias: ``[V]``, if it has one.
    """

    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, ``[N, D]`` to ``[N, V]``."""
        bias = None if self.bias is None else self.bias.to(hidden.device)
        return F.linear(hidden, self.weight.to(hidden.device), bias)


@dataclass(frozen=True)
class KeptStates(KeptPrediction):
    """Hidden states: 30 to 60 times smaller than the logits of a language model.

    Args:
        states: Inputs of the output head, ``[N, D]``, on the CPU.
        head: The head as it was then.
    """

    states: Tensor
    head: Head

    def logits(self, device: torch.device) -> Tensor:
        """The logits of the original, ``[N, V]``. Call it in the precision of the pass that gave the states."""
        return self.head(self.states.to(device))


def kept(network: nn.Module, run: Callable[[], Likelihood], head: Head | None) -> KeptPrediction:
    """Run the original once, and keep what it predicts.

    Hidden states and a copy of the head, if the logits are what a linear head makes of one hidden state a row; otherwise,
    as for classifiers, and where logits are scaled or capped behind the head, the logits.

    Args:
        network: The network that ``run`` runs; its head is watched.
        run: Gives a prediction with logits.
        head: The copy that an earlier batch has made.
    """
    with _watched(output_head(network)) as seen:
        prediction = run()
    assert isinstance(prediction, Prediction)
    logits = prediction.logits.detach()
    if len(seen) == 1:
        states, module = seen[0]
        copy = _copied(module, states, logits) if head is None else head
        if copy is not None and len(states) and _explains(copy, states, logits):
            return KeptStates(states.to("cpu", copy=True), copy)
    return KeptLogits(logits.to("cpu", copy=True))


@contextmanager
def _watched(head: nn.Module | None) -> Iterator[list[tuple[Tensor, nn.Module]]]:
    """What the head gets, behind the hooks of readouts, which choose rows."""
    seen: list[tuple[Tensor, nn.Module]] = []

    def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor):
            seen.append((args[0].detach(), module))

    handle = None if head is None else head.register_forward_hook(see)
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def _copied(module: nn.Module, states: Tensor, logits: Tensor) -> Head | None:
    """A copy of a head, whole on every rank; ``None`` if it is not linear."""
    if not isinstance(module, nn.Linear) or not module.weight.is_floating_point():
        return None
    if module.weight.shape != (logits.shape[-1], states.shape[-1]):
        return None
    # A sharded weight may be whole in here, or have been let go of already: then it is a collective, on every rank.
    weight, bias = (
        None if p is None else gathered(p.detach()).to("cpu", copy=True) for p in (module.weight, module.bias)
    )
    assert weight is not None
    return Head(weight, bias)


def _explains(head: Head, states: Tensor, logits: Tensor) -> bool:
    if states.dim() != 2 or len(states) != len(logits):
        return False
    again = head(states)
    return float(kl_divergence(logits, again).double().mean()) < _SAME
