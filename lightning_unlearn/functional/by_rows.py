"""Large tensors in pieces, so that what is computed on the way stays small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIECE, _PIECE_ON_CPU = 1 << 22, 1 << 16
"""Elements of a piece: as many as fit a CPU's cache; elsewhere more, since each piece is several launches."""


def piece_for(tensor: Tensor) -> int:
    """How many elements of ``tensor`` to work on at once.

    Example:
        >>> piece_for(torch.zeros(2))
        65536
    """
    return _PIECE_ON_CPU if tensor.device.type == "cpu" else _PIECE


def by_rows(change: Callable[[Tensor], Tensor], weight: Tensor, *, multiple: int = 1) -> Tensor:
    """``change`` of a tensor, taken a number of rows at a time. Right if no row's result depends on another's.

    Args:
        change: From some rows to rows of the same shape and dtype.
        weight: ``[out, ...]``.
        multiple: The number of rows in a piece is a multiple of it, but for the last one's.

    Returns:
        A new tensor of the shape and dtype of ``weight``.

    Example:
        >>> by_rows(lambda rows: rows / rows.amax(1, keepdim=True), torch.tensor([[1.0, 2.0], [1.0, 4.0]]))
        tensor([[0.5000, 1.0000],
                [0.2500, 1.0000]])
    """
    number = max(1, piece_for(weight) * len(weight) // (weight.numel() or 1) // multiple) * multiple
    changed = torch.empty_like(weight)
    for start in range(0, len(weight), number):
        changed[start : start + number] = change(weight[start : start + number])
    return changed
