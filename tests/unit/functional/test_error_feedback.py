"""GPTQ against where it comes from: the best correction of all weights that are left, by inverses computed anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.error_feedback import round_with_feedback
from lightning_unlearn.functional.quantization import round_to_nearest

GROUPS = (None, 8, 5)


def problem(seed: int, dtype: torch.dtype = torch.float64, outputs: int = 6, inputs: int = 16) -> tuple[Tensor, Tensor]:
    """A matrix, and inputs that are correlated, as those of layers are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    x = torch.randn(200, inputs, generator=generator, dtype=torch.float64) @ mixing + 0.5
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64).to(dtype), x


def one_at_a_time(weight: Tensor, hessian: Tensor, bits: int, group: int | None, damp: float) -> Tensor:
    """Optimal brain quantisation in a fixed order: no factor, no groups at once, an inverse for each column."""
    w, n, top = weight.clone(), weight.shape[1], 2 ** (bits - 1) - 1
    h = hessian + damp * hessian.diagonal().mean() * torch.eye(n, dtype=hessian.dtype)
    scale = torch.empty(0)
    for j in range(n):
        if j % (group or n) == 0:
            scale = w[:, j : j + (group or n)].abs().amax(1) / top
        rounded = (w[:, j] / scale).round().clamp(-top, top) * scale
        left = torch.linalg.inv(h[j:, j:])
        w[:, j:] -= torch.outer((w[:, j] - rounded) / left[0, 0], left[0])
        w[:, j] = rounded
    return w


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_the_best_correction_of_the_weights_that_are_left(bits: int, group: int | None) -> None:
    weight, x = problem(0)
    hessian = x.T @ x / len(x)
    found = round_with_feedback(weight, hessian, bits=bits, group_size=group)
    assert_close(found, one_at_a_time(weight, hessian, bits, group, 0.01), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_correlations_it_is_rounding_to_nearest_to_the_bit(dtype: torch.dtype, group: int | None) -> None:
    weight, _ = problem(1, dtype)
    nearest = round_to_nearest(weight, bits=3, group_size=group)
    for hessian in (torch.eye(16), 7 * torch.eye(16), torch.zeros(16, 16)):  # the last: nothing ever went in
        assert torch.equal(round_with_feedback(weight, hessian, bits=3, group_size=group), nearest)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("seed", range(5))
def test_outputs_move_less_than_by_rounding_to_nearest(seed: int, group: int | None) -> None:
    weight, x = problem(seed, outputs=64)

    def error(rounded: Tensor) -> float:
        return float((x @ (rounded - weight).T).square().sum())

    found = error(round_with_feedback(weight, x.T @ x, bits=4, group_size=group))
    assert found < 0.9 * error(round_to_nearest(weight, bits=4, group_size=group))


def test_an_input_that_never_occurs_changes_nothing_for_the_others() -> None:
    weight, x = problem(2)
    x[:, 3] = 0
    others = [j for j in range(16) if j != 3]
    scale_there = weight.abs().argmax(1)
    weight[scale_there == 3, 3] = 0
    found = round_with_feedback(weight, x.T @ x, bits=4, damp=1e-9)
    without = round_with_feedback(weight[:, others], x[:, others].T @ x[:, others], bits=4, damp=1e-9)
    assert_close(found[:, others], without, rtol=1e-6, atol=1e-6)


def test_its_argument_stays_as_it_is() -> None:
    weight, x = problem(3)
    before, hessian = weight.clone(), x.T @ x
    kept = hessian.clone()
    round_with_feedback(weight, hessian, bits=2)
    assert torch.equal(weight, before)
    assert torch.equal(hessian, kept)
