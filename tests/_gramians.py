"""Gradients of every awkward kind, row by row: oracles see the rows, what is tested sees their inner products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WIDTH = 20


def normal(rows: int, seed: int = 0) -> Tensor:
    """Nothing special: about half of the rows conflict with the first."""
    return torch.randn(rows, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agreeing(rows: int, seed: int = 0) -> Tensor:
    """No two rows conflict."""
    return normal(rows, seed).abs()


def conflicting(rows: int, seed: int = 0) -> Tensor:
    """The first row conflicts with all the others, which agree among themselves."""
    vectors = agreeing(rows, seed)
    vectors[0] *= -1
    return vectors


def dependent(rows: int, seed: int = 0) -> Tensor:
    """Rows in a subspace of half as many dimensions, the first included."""
    return normal(rows, seed + 1)[:, : (rows + 1) // 2] @ normal((rows + 1) // 2, seed)


def duplicate(rows: int, seed: int = 0) -> Tensor:
    """Every row twice, then once more the other way round."""
    vectors = normal(rows, seed)
    kinds = -(-rows // 3)
    return torch.cat([vectors[:kinds], vectors[:kinds], -vectors[:kinds]])[:rows]


def nearly_dependent(rows: int, seed: int = 0) -> Tensor:
    """Rows that differ by angles from 1e-1 to 1e-9, as gradients of consecutive batches may."""
    vectors = normal(rows, seed)
    return vectors[:1] + torch.logspace(-1, -9, rows, dtype=torch.float64)[:, None] * vectors


def with_zeros(rows: int, seed: int = 0) -> Tensor:
    """Every other row is zero, the first is not."""
    vectors = normal(rows, seed)
    vectors[1::2] = 0
    return vectors


def zero_first(rows: int, seed: int = 0) -> Tensor:
    """Nothing is left to forget: what a bounded objective comes to."""
    vectors = normal(rows, seed)
    vectors[0] = 0
    return vectors


def all_zero(rows: int, seed: int = 0) -> Tensor:
    """Nothing at all."""
    return torch.zeros(rows, WIDTH, dtype=torch.float64)


def badly_scaled(rows: int, seed: int = 0) -> Tensor:
    """Lengths from 1e-15 to 1e15 side by side, in no order."""
    lengths = torch.logspace(-15, 15, rows, dtype=torch.float64)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return normal(rows, seed) * lengths[order, None]


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    sampler.__name__: sampler
    for sampler in (
        *(normal, agreeing, conflicting, dependent, duplicate, nearly_dependent),
        *(with_zeros, zero_first, all_zero, badly_scaled),
    )
}
