"""A collapsed matrix has the singular values that the formulas say, in the directions it had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.spectral import SpectralFilter, collapse

KINDS = ["hard", "soft", "both", "quadratic"]
SHAPES = [(12, 20), (20, 12), (9, 9)]

all_kinds = pytest.mark.parametrize("kind", KINDS)
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def expected(values: Tensor, q: int, kind: str) -> Tensor:
    top, last, tail = values[:q], values[q - 1], values[q:]
    become = {"hard": top * 0, "soft": last + top * 0, "both": last**2 / top, "quadratic": last**4 / top**3}
    return torch.cat([become[kind], tail])


def spectrum_of(matrix: Tensor, like: Tensor) -> Tensor:
    """The singular values of ``matrix`` in the directions of ``like``; nothing may be off the diagonal."""
    left, _, right = torch.linalg.svd(like, full_matrices=False)
    inner = left.mT @ matrix @ right.mT
    assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-12)
    assert_close(left @ inner @ right, matrix, rtol=0, atol=1e-12)
    return inner.diagonal()


@all_kinds
@all_shapes
@pytest.mark.parametrize("q", [1, 3, 8])
def test_the_largest_become_what_the_formula_says_and_the_tail_stays(shape, q, kind):
    gradient = torch.randn(shape, dtype=torch.float64)
    found = spectrum_of(collapse(gradient, q, kind), gradient)
    assert_close(found, expected(torch.linalg.svdvals(gradient), q, kind), rtol=0, atol=1e-12)


def one_side(gradient: Tensor, q: int, side: str, power: float) -> Tensor:
    """By a covariance: what RepSelect does to inputs or to outputs, without a decomposition of the gradient itself."""
    matrix = gradient if side == "in" else gradient.mT
    squares, directions = torch.linalg.eigh(matrix.mT @ matrix)
    top, last = squares[-q:], squares[-q]
    shrink = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    shrink = shrink - directions[:, -q:] @ torch.diag(1 - (last / top).sqrt() ** power) @ directions[:, -q:].mT
    return (matrix @ shrink) if side == "in" else (matrix @ shrink).mT


def test_the_kinds_are_repselects_projections_of_inputs_and_outputs():
    gradient = torch.randn(12, 20, dtype=torch.float64)
    inputs, outputs = one_side(gradient, 4, "in", 1), one_side(gradient, 4, "out", 1)
    assert_close(collapse(gradient, 4, "soft"), inputs, rtol=0, atol=1e-12)
    assert_close(collapse(gradient, 4, "soft"), outputs, rtol=0, atol=1e-12)
    assert_close(collapse(gradient, 4, "both"), one_side(gradient, 4, "in", 2), rtol=0, atol=1e-12)
    assert_close(collapse(gradient, 4, "quadratic"), one_side(gradient, 4, "in", 4), rtol=0, atol=1e-12)


@all_kinds
@all_shapes
def test_nothing_is_collapsed_without_a_direction(shape, kind):
    gradient = torch.randn(shape)
    assert torch.equal(collapse(gradient, 0, kind), gradient)


@all_kinds
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("q", [1, 2, 5, 9, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_still_descends_and_does_not_vanish_whatever_the_rank(rank, q, kind, dtype):
    gradient = (torch.randn(9, rank, dtype=dtype) @ torch.randn(rank, 12, dtype=dtype)).clone()
    found = collapse(gradient, q, kind)
    cosine = torch.cosine_similarity(gradient.flatten(), found.flatten(), dim=0)
    smallest = torch.linalg.svdvals(gradient)[rank - 1]
    assert cosine > 0
    # Not to rounding: the trap is that the largest become the size of a value which is zero but for rounding.
    assert torch.linalg.vector_norm(found) >= 0.99 * smallest**4 / torch.linalg.svdvals(gradient)[0] ** 3
    if kind == "soft":
        assert_close(torch.linalg.svdvals(found)[: min(q, rank)].amin(), torch.linalg.svdvals(found)[0])


@all_kinds
def test_rank_one_stays_as_it_is(kind):
    gradient = torch.outer(torch.randn(5), torch.randn(6))
    assert_close(collapse(gradient, 3, kind), gradient)


@all_kinds
def test_zeros_stay_zeros(kind):
    assert torch.equal(collapse(torch.zeros(3, 4), 2, kind), torch.zeros(3, 4))


@all_kinds
@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 260, 257)], ids=["exact", "sketched"])
def test_a_stack_is_collapsed_matrix_by_matrix(shape, kind):
    stack = torch.randn(shape, dtype=torch.float64)
    stack[1] = torch.outer(stack[1, :, 0], stack[1, 0])  # of another rank: it has its own limit
    assert_close(collapse(stack, 3, kind), torch.stack([collapse(matrix, 3, kind) for matrix in stack]))


@all_kinds
def test_half_precision_is_computed_in_float32(kind):
    gradient = torch.randn(20, 30).bfloat16()
    assert torch.equal(collapse(gradient, 4, kind), collapse(gradient.float(), 4, kind).bfloat16())


def test_what_bfloat16_has_rounded_is_no_direction():
    gradient = (torch.randn(40, 3) @ torch.randn(3, 30)).bfloat16()
    assert_close(
        torch.linalg.svdvals(collapse(gradient, 20, "soft").float())[:3].amin(),
        torch.linalg.svdvals(gradient.float())[2],
        rtol=0.05,
        atol=0,
    )


@all_kinds
def test_large_matrices_are_sketched_as_exactly_as_the_spectrum_allows(kind):
    left, right = (torch.linalg.qr(torch.randn(n, 300, dtype=torch.float64)).Q for n in (310, 320))
    values = torch.cat([torch.linspace(10, 5, 6), torch.linspace(0.5, 0.1, 294)]).double()
    gradient = left @ torch.diag(values) @ right.mT
    found = left.mT @ collapse(gradient, 6, kind) @ right
    assert_close(found, torch.diag(expected(values, 6, kind)), rtol=0, atol=1e-6)


@all_kinds
def test_large_matrices_without_a_gap_still_descend(kind):
    gradient = torch.randn(300, 310)
    found = collapse(gradient, 6, kind)
    assert torch.cosine_similarity(gradient.flatten(), found.flatten(), dim=0) > 0.9
    assert torch.linalg.matrix_norm(found, 2) < torch.linalg.matrix_norm(gradient, 2)


def test_sketching_draws_nothing_from_the_global_generator():
    gradient, before = torch.randn(300, 310), torch.get_rng_state()
    first = collapse(gradient, 6, "hard")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(collapse(gradient, 6, "hard"), first)


@all_kinds
def test_a_filter_that_is_used_again_never_turns_a_gradient_around(kind):
    cached = SpectralFilter.of(torch.randn(9, 7, dtype=torch.float64), 4, kind)
    for _ in range(20):
        gradient = torch.randn(9, 7, dtype=torch.float64)
        assert float((gradient * cached(gradient)).sum()) > 0


@all_kinds
def test_the_gradient_given_is_not_changed(kind):
    gradient = torch.randn(4, 5)
    before = gradient.clone()
    collapse(gradient, 2, kind)
    assert torch.equal(gradient, before)
