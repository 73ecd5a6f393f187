"""Which weights are the smallest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_unlearn.functional.by_rows import piece_for

_INFINITY = 0x7F800000
"""The bits of an infinite float32, below which those of all finite magnitudes are, in their order."""


def smallest_bound(magnitudes: Tensor, count: int, total: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
    """The smallest bound that at least ``count`` magnitudes do not exceed: the ``count``-th smallest of them.

    Found by bisection of the bits of a float32, exactly, in 31 counts. So the magnitudes may be spread over processes,
    which exchange nothing but their counts.

    Args:
        magnitudes: Not negative, of any shape; compared as float32.
        count: From 1 to the number of magnitudes in all processes.
        total: Adds up a count, ``[]`` float64, over the processes that hold the others.

    Returns:
        ``[]`` float32.

    Example:
        >>> smallest_bound(torch.tensor([0.5, 3.0, 0.25, 2.0]), 3)
        tensor(2.)
    """
    pieces = magnitudes.float().view(torch.int32).flatten().split(piece_for(magnitudes))
    low = torch.zeros((), dtype=torch.int64, device=magnitudes.device)
    high = torch.full_like(low, _INFINITY)
    for _ in range(31):
        middle = (low + high) // 2
        found = sum(((bits <= middle).sum() for bits in pieces), torch.zeros_like(low))
        is_enough = total(found.double()) >= count
        low, high = torch.where(is_enough, low, middle + 1), torch.where(is_enough, middle, high)
    return high.int().view(torch.float32)
