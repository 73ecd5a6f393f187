"""The gate on a step, against a loop over its coordinates."""

from __future__ import annotations

import pytest
import torch

from lightning_unlearn.functional.gate import close_uphill_


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_uphill_coordinates_are_set_back_to_the_bit_and_others_stay(dtype: torch.dtype, threshold: float) -> None:
    before, after = torch.randn(5, 6).to(dtype), torch.randn(5, 6).to(dtype)
    gradient = torch.randn(5, 6)
    gradient[0] = 0
    after[:, 0] = before[:, 0]
    weights = after.clone()
    measured = close_uphill_(weights, before, gradient, threshold)

    closed = 0
    for w, a, b, g in zip(weights.flatten(), after.flatten(), before.flatten(), gradient.flatten(), strict=True):
        is_uphill = (float(a) > float(b) and float(g) > 0) or (float(a) < float(b) and float(g) < 0)
        is_closed = is_uphill and abs(float(g)) >= threshold
        closed += is_closed
        assert w == (b if is_closed else a)
    assert 0 < closed < 24
    steps = [(w.double() - before.double()).flatten() for w in (after, weights)]
    expected = [closed, 25, *(float(d @ d) for d in steps), *(float(d @ gradient.double().flatten()) for d in steps)]
    assert measured.tolist() == pytest.approx(expected, rel=1e-2 if dtype.itemsize == 2 else 1e-5, abs=1e-5)


def test_products_too_small_for_a_number_are_uphill_all_the_same() -> None:
    weights, before = torch.tensor([1e-30, -1e-30]), torch.zeros(2)
    close_uphill_(weights, before, torch.tensor([1e-30, 1e-30]))
    assert weights.tolist() == [0.0, pytest.approx(-1e-30)]
