"""Which weights are the smallest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_unlearn.functional.by_rows import piece_for

_INFINITY = 0x7F800000
"""The bits of an infinite float32, below which those of all finite magnitudes are, in their order."""
_LATER = 15
"""Of the 31 bits of a magnitude, those that are counted last."""


def smallest_bound(magnitudes: Tensor, count: int, total: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
    """The smallest bound that at least ``count`` magnitudes do not exceed: the ``count``-th smallest of them.

    Found by two counts of the bits of a float32, exactly: of its first sixteen, and of the others where those agree. So the
    magnitudes may be spread over processes, which exchange nothing but their counts.

    Args:
        magnitudes: Not negative, of any shape; compared as float32.
        count: From 1 to the number of magnitudes in all processes.
        total: Adds up counts, ``[n]`` float64, over the processes that hold the others.

    Returns:
        ``[]`` float32.

    Example:
        >>> smallest_bound(torch.tensor([0.5, 3.0, 0.25, 2.0]), 3)
        tensor(2.)
    """
    pieces = magnitudes.float().view(torch.int32).flatten().split(piece_for(magnitudes))
    first, before = _place((bits >> _LATER for bits in pieces), 1 << 16, count, total)
    there = (bits[bits >> _LATER == first] & ((1 << _LATER) - 1) for bits in pieces)
    second, _ = _place(there, 1 << _LATER, count - before, total)
    return ((first << _LATER) + second).clamp_max(_INFINITY).int().view(torch.float32)


def _place(
    pieces: Iterable[Tensor], size: int, count: int | Tensor, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The ``count``-th smallest of whole numbers below ``size``, and how many are smaller."""
    counts = total(sum(torch.bincount(piece, minlength=size) for piece in pieces).double())  # type: ignore[union-attr]
    upto = counts.long().cumsum(0)  # of floats it is not deterministic on every device
    place = (upto < count).sum().clamp_max(size - 1)
    return place, upto[place] - counts[place].long()
