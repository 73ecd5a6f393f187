"""Trends, against scipy and a search over all non-decreasing curves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

from lightning_unlearn.functional.trend import isotonic_rise, rank_correlation


def drawn(seed: int, slope: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    doses = generator.choice([0, 1, 4, 16], size=60).astype(float)
    return doses, (slope * np.log1p(doses) + generator.normal(0, 1, 60)).round(1)


@pytest.mark.parametrize("seed", range(4))
def test_the_trend_is_spearmans(seed: int) -> None:
    assert rank_correlation(*drawn(seed)) == pytest.approx(spearmanr(*drawn(seed)).statistic)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.5])
def test_the_rise_is_that_of_the_best_non_decreasing_curve(slope: float) -> None:
    """Written as a bounded least squares problem in the steps of the curve."""
    doses, known = drawn(7, slope)
    ranks = np.array([(known < k).sum() + (known == k).sum() / 2 for k in known]) / len(known)
    steps = np.array([[1.0, d >= 1, d >= 4, d >= 16] for d in doses])
    best = lsq_linear(steps, ranks, bounds=([-np.inf, 0, 0, 0], np.inf), tol=1e-12).x
    assert isotonic_rise(doses, known) == pytest.approx(best[1:].sum(), abs=1e-5)


def test_what_is_constant_has_no_trend_and_what_is_no_number_none_at_all() -> None:
    doses, known = drawn(0)
    assert rank_correlation(doses, np.ones(60)) == rank_correlation(np.ones(60), known) == 0.0
    assert isotonic_rise(np.ones(60), known) == 0.0
    known[3] = np.nan
    assert np.isnan(rank_correlation(doses, known))
    assert np.isnan(isotonic_rise(doses, known))
