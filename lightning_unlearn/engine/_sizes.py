from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine._products import Row
from lightning_unlearn.engine._scoped import sum_by_scope
from lightning_unlearn.runtime import local


def root_mean_squares(row: Row, params: Sequence[Tensor]) -> Tensor:
    """The root mean square of each whole tensor, sharded or not. Collective: every rank must call it.

    Args:
        row: A tensor for each of ``params``; ``None`` counts as zero.
        params: The parameters, whose placement says how they are sharded.

    Returns:
        ``[len(params)]`` float64, the same on every rank.

    Example:
        >>> root_mean_squares([torch.tensor([3.0, 4.0]), None], [torch.zeros(2), torch.zeros(5)]).square()
        tensor([12.5000,  0.0000], dtype=torch.float64)
    """
    device = local(params[0]).device
    squares = [torch.zeros((), dtype=torch.float64, device=device) if t is None else _square(t) for t in row]
    sums = sum_by_scope(squares, params, range(len(params)), len(params))
    return (sums / sums.new_tensor([max(p.numel(), 1) for p in params])).sqrt()


def _square(tensor: Tensor) -> Tensor:
    # Float32 at least: the squares of half precision overflow.
    precise = torch.promote_types(tensor.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(local(tensor).detach(), dtype=precise)
    return norm.double().square()
