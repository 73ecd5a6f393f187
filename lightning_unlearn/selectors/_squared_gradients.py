"""Squared gradients, from which the diagonal of the Fisher information is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.selectors._base import selectable

Losses = Callable[[Any], Iterable[Callable[[Any], Tensor]]]
"""From a batch to the losses whose gradients are squared one by one."""


def add_squares_(
    totals: Sequence[dict[str, Tensor]],
    network: nn.Module,
    batches: Sequence[Any],
    losses: Losses,
    engine: GradientEngine,
    amount: Callable[[Tensor], Tensor] = lambda gradient: gradient.square(),
) -> int:
    """Add the square of each gradient to every one of ``totals``, by name; how many there were. Collective.

    Args:
        totals: Sums so far, in float32; changed in place.
        network: The network.
        batches: What the losses are of.
        losses: The losses of a batch.
        engine: How gradients are taken.
        amount: What is added of a gradient, instead of its square.
    """
    named, count = selectable(network), 0
    for batch in batches:
        for loss in losses(batch):
            row, _ = engine.row(loss, [batch], list(named.values()))
            count += 1
            for name, gradient in zip(named, row, strict=True):
                if gradient is not None:
                    _add_(totals, name, amount(gradient.detach().float()))
    return count


def _add_(totals: Sequence[dict[str, Tensor]], name: str, square: Tensor) -> None:
    for total in totals:
        if name in total:
            total[name].add_(square)
        else:
            total[name] = square.clone()
