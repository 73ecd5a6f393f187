"""Projections and sketches against decompositions of the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.subspace import Projection, energy_rank, nystrom, thinner


def orthonormal(d: int, k: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))[0]


@pytest.mark.parametrize("k", [0, 1, 6, 7, 12, 13])
def test_either_basis_projects_alike_and_the_thinner_is_kept(k: int) -> None:
    protected, change = orthonormal(13, k), torch.randn(4, 13, dtype=torch.float64)
    projection = thinner(protected)
    assert projection.basis.shape == (13, min(k, 13 - k))
    assert (projection.protects, projection.leaves) == (k, 13 - k)
    expected = change @ (torch.eye(13, dtype=torch.float64) - protected @ protected.T)
    assert_close(projection(change), expected)
    assert_close(Projection(protected, is_free=False)(change), expected)
    assert_close(projection(change) @ protected, torch.zeros(4, k, dtype=torch.float64))


def test_what_is_free_is_left_and_projecting_twice_is_projecting_once() -> None:
    for k in (3, 10):
        projection = thinner(orthonormal(13, k))
        once = projection(torch.randn(4, 13, dtype=torch.float64))
        assert_close(projection(once), once)


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_the_energy_rank_is_the_smallest_that_holds_it(energy: float) -> None:
    values = torch.rand(20, dtype=torch.float64).sort(descending=True).values
    total = values.sum() + 0.0
    rank = energy_rank(values, total, energy)
    assert values[:rank].sum() >= energy * total * (1 - 1e-12)
    assert values[: rank - 1].sum() < energy * total


def test_nothing_has_no_energy_and_rounding_does_not_count() -> None:
    assert energy_rank(torch.zeros(3, dtype=torch.float64), torch.tensor(0.0), 0.9) == 0
    assert energy_rank(torch.tensor([1.0, 1e-16, 1e-17]).double(), torch.tensor(1.0 + 1e-12).double(), 1.0) == 1
    assert energy_rank(torch.tensor([2.0, 1.0]).double(), torch.tensor(10.0).double(), 0.9) == 2


@pytest.mark.parametrize("rank", [1, 5, 8])
def test_a_sketch_as_wide_as_the_rank_is_exact(rank: int) -> None:
    rows = torch.randn(50, rank, dtype=torch.float64) @ torch.randn(rank, 30, dtype=torch.float64)
    whole, test = rows.T @ rows, orthonormal(30, 8)
    values, vectors = nystrom(whole @ test, test)
    expected = torch.linalg.eigvalsh(whole).flip(0)
    assert_close(values[:rank], expected[:rank])
    assert float(values[rank:].sum()) < 1e-9 * float(values[0])
    assert_close(vectors[:, :rank] @ vectors[:, :rank].T, torch.linalg.pinv(rows) @ rows)


def test_a_sketch_never_overestimates() -> None:
    rows = torch.randn(200, 40, dtype=torch.float64) * torch.logspace(0, -2, 40, dtype=torch.float64)
    whole = rows.T @ rows
    expected = torch.linalg.eigvalsh(whole).flip(0)
    for width in (5, 10, 20):
        test = orthonormal(40, width)
        values, vectors = nystrom(whole @ test, test)
        assert bool((values <= expected[:width] * (1 + 1e-9)).all())
        assert_close(vectors.T @ vectors, torch.eye(width, dtype=torch.float64))


def test_a_sketch_of_nothing_is_nothing() -> None:
    values, _ = nystrom(torch.zeros(6, 3, dtype=torch.float64), orthonormal(6, 3))
    assert torch.equal(values, torch.zeros(3, dtype=torch.float64))
