"""Whether one quantity rises with another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

Array = NDArray[np.float64]


def rank_correlation(doses: Array, known: Array) -> float:
    """Spearman's rank correlation; 0 where one of the two is constant.

    Example:
        >>> round(rank_correlation(np.array([0.0, 1.0, 4.0]), np.array([-3.0, -2.0, -1.0])), 6)
        1.0
    """
    if np.isnan(known).any():
        return float("nan")
    ranks = np.stack([rankdata(doses), rankdata(known)])
    ranks -= ranks.mean(1, keepdims=True)
    scale = np.linalg.norm(ranks, axis=1).prod()
    return float(ranks[0] @ ranks[1] / scale) if scale else 0.0


def isotonic_rise(doses: Array, known: Array) -> float:
    """The rise of the isotonic regression of ranks, scaled to [0, 1], on doses.

    Example:
        >>> isotonic_rise(np.array([0.0, 0.0, 4.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
        0.5
    """
    if np.isnan(known).any():
        return float("nan")
    ranks = (rankdata(known) - 0.5) / len(known)
    levels, index = np.unique(doses, return_inverse=True)
    weights = np.bincount(index)
    means = np.bincount(index, ranks) / weights
    fitted = isotonic_regression(means, weights=weights).x if len(levels) > 1 else means
    return float(fitted[-1] - fitted[0])
