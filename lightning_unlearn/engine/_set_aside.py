from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_unlearn.runtime import uninterrupted


@contextmanager
def gradients_set_aside(module: nn.Module, params: Iterable[Tensor] = ()) -> Iterator[None]:
    """Set every ``p.grad`` to ``None``, and afterwards put the very same tensors back, without a copy.

    Args:
        module: The module with the parameters.
        params: Further parameters, such as those of an adapter that is held outside of ``module``.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1)
        >>> layer(torch.ones(1)).backward()
        >>> grad = layer.weight.grad
        >>> with gradients_set_aside(layer):
        ...     layer.weight.grad is None
        True
        >>> layer.weight.grad is grad
        True
    """
    # The same tensors matter: under DDP they can be views into the buckets of its reducer.
    saved: list[tuple[Tensor, Tensor | None]] = [(p, p.grad) for p in {*module.parameters(), *params}]
    try:
        for p, _ in saved:
            p.grad = None
        yield
    finally:
        with uninterrupted():
            for p, grad in saved:
                p.grad = grad
