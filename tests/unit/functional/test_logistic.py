"""Logistic regression, against scipy's minimiser on the same loss written with numpy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch.testing import assert_close

from lightning_unlearn.functional.logistic import fit_logistic, probe_direction, standardise
from lightning_unlearn.functional.reversal import reverse_gradient


def sample(rows=40, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
def test_equals_scipy(c):
    x, y = sample(), torch.arange(40) % 3
    weight, bias = fit_logistic(x, y, 3, c)

    def loss(flat):
        w, b = flat[:15].reshape(3, 5), flat[15:]
        scores = x.numpy() @ w.T + b
        return c * (logsumexp(scores, axis=1) - scores[np.arange(40), y.numpy()]).sum() + (w**2).sum() / 2

    best = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-7})
    assert_close(weight, torch.tensor(best.x[:15].reshape(3, 5)), rtol=1e-4, atol=1e-5)
    # A number added to every bias changes nothing.
    assert_close(bias - bias.mean(), torch.tensor(best.x[15:] - best.x[15:].mean()), rtol=1e-4, atol=1e-5)


def test_direction_equals_scipy_on_standardised_features():
    stretch = torch.tensor([1.0, 5.0, 0.2, 1.0, 3.0])
    positive, negative = (sample(12, seed=1) + 0.5) * stretch, sample(9, seed=2) * stretch
    features = torch.cat([positive, negative]).numpy()
    x = (features - features.mean(0)) / features.std(0)
    sign = np.array([1.0] * 12 + [-1.0] * 9)
    best = minimize(
        lambda v: np.logaddexp(0, -sign * (x @ v[:5] + v[5])).sum() + (v[:5] ** 2).sum() / 2, np.zeros(6), tol=1e-10
    )
    raw = torch.tensor(best.x[:5] / features.std(0))
    assert_close(probe_direction(positive, negative), raw / raw.norm(), rtol=1e-4, atol=1e-5)


def test_direction_is_a_unit_vector_that_turns_with_the_sides():
    there, back = (
        probe_direction(sample(seed=1) + 1, sample(seed=2)),
        probe_direction(sample(seed=2), sample(seed=1) + 1),
    )
    assert_close(there, -back, rtol=0, atol=1e-6)
    assert there.norm().item() == pytest.approx(1)
    assert (there > 0).all()


def test_fits_draw_nothing_and_work_without_gradients():
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (fit_logistic(sample().float(), torch.arange(40) % 2, 2) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not first[0].requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_constant_columns_are_left_alone():
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    mean, scale = standardise(x)
    assert_close((x - mean) / scale, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_reversal_changes_no_bit_of_the_values():
    x = sample().float().requires_grad_()
    assert torch.equal(reverse_gradient(x, 0.37), x)
