"""What is set on a network for a while: frozen parameters, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_unlearn.runtime import uninterrupted


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Freeze all parameters; afterwards each is as it was.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    flags = [(p, p.requires_grad) for p in network.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        with uninterrupted():
            for p, requires_grad in flags:
                p.requires_grad_(requires_grad)


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """A list for handles of hooks, which are removed in the end, the last one first."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        with uninterrupted():
            for handle in reversed(handles):
                handle.remove()
