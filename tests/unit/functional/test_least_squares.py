"""Non-negative least squares, against scipy's."""

import numpy as np
import pytest
from scipy.optimize import nnls

from lightning_unlearn.functional import least_squares
from lightning_unlearn.functional.least_squares import non_negative_least_squares


@pytest.mark.parametrize("columns", [1, 4, 12, 40])
@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_scipys(columns, rank, seed):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(12, rank)) @ random.normal(size=(rank, columns))
    matrix /= np.linalg.norm(matrix, axis=0)
    target = random.normal(size=12)
    target /= np.linalg.norm(target)

    x, solved = non_negative_least_squares(matrix, target)

    assert solved
    assert (x >= 0).all()
    np.testing.assert_allclose(matrix @ x, matrix @ nnls(matrix, target)[0], atol=1e-9)


def test_what_points_away_is_left_out():
    x, solved = non_negative_least_squares(np.eye(3), np.array([0.5, -0.5, 0.0]))

    assert solved
    assert x.tolist() == [0.5, 0.0, 0.0]


def test_columns_that_nearly_cancel_get_no_huge_weights():
    """Their difference would fit what is left, and magnify the rounding in it by a billion."""
    matrix, target = np.array([[1.0, -1.0], [0.0, 1e-9]]), np.array([0.7, 0.7])

    x, solved = non_negative_least_squares(matrix, target)

    assert solved
    np.testing.assert_allclose(x, [0.7, 0.0])


def test_no_columns_fit_nothing():
    assert non_negative_least_squares(np.zeros((0, 0)), np.zeros(0))[1]


def test_a_search_that_does_not_end_says_so(monkeypatch):
    """A solver that never moves away from zero would be asked the same question for ever."""
    monkeypatch.setattr(least_squares, "_back_to_the_border", lambda matrix, target, x, best, free: (x, free & False))

    x, solved = non_negative_least_squares(np.eye(2), np.array([0.5, 0.5]))

    assert not solved
    assert x.tolist() == [0.0, 0.0]
