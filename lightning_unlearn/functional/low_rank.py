"""The nearest matrices of low rank."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of at most ``rank``, in the Frobenius norm: its largest singular directions.

    Args:
        matrix: ``[..., m, n]``, of float32 at least.
        rank: How many directions are kept.

    Example:
        >>> truncated(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2).diag()
        tensor([3., 2., 0.])
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept: Tensor = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    return kept


def truncated_product(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the nearest matrix of at most ``rank`` to ``left @ right``, which is never formed.

    Args:
        left: ``[m, r]``.
        right: ``[r, n]``.
        rank: How many directions are kept.

    Returns:
        Factors of the same shapes, with zeros in the place of what was left out, in float32 at least.

    Example:
        >>> left, right = truncated_product(torch.eye(2), torch.diag(torch.tensor([3.0, 1.0])), 1)
        >>> left @ right
        tensor([[3., 0.],
                [0., 0.]])
    """
    dtype = torch.promote_types(left.dtype, torch.float32)
    # Of orthonormal bases only the small core between them needs a decomposition.
    (ql, rl), (qr, rr) = torch.linalg.qr(left.to(dtype)), torch.linalg.qr(right.to(dtype).mT)
    u, s, vh = torch.linalg.svd(rl @ rr.mT, full_matrices=False)
    zeros = left.shape[1] - min(rank, len(s))
    return F.pad(ql @ (u[:, :rank] * s[:rank]), (0, zeros)), F.pad(vh[:rank] @ qr.mT, (0, 0, 0, zeros))
