"""The largest scale at which something stays within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable

_FACTOR = 8.0


def largest_scale(
    measure: Callable[[float], float],
    budget: float,
    *,
    start: float = 1.0,
    closeness: float = 0.95,
    limit: float = math.inf,
    trials: int = 40,
) -> float:
    r"""Find a scale at which ``measure`` is between ``closeness * budget`` and ``budget``, by bisection of its logarithm.

    From ``start`` the scale is multiplied, or divided, by 8 until the budget is between two scales; then their geometric
    mean is tried, again and again. The measure should be zero at zero and grow with the scale. NaN is above any budget.

    Args:
        measure: From a positive scale to what it costs.
        budget: What it may cost, positive.
        start: The first scale that is tried.
        closeness: How much of the budget has to be spent, from 0 to 1.
        limit: The largest scale; if it is within the budget, it is taken.
        trials: The most evaluations.

    Returns:
        The largest scale that was found within the budget; 0 if none was. Less of the budget is spent than was asked for
        where ``measure`` jumps, as in half precision, or does not reach it before ``limit``.

    Example:
        >>> 0.0975 <= largest_scale(lambda scale: scale**2, budget=0.01) <= 0.1
        True
        >>> largest_scale(lambda scale: 0.0, budget=0.01, limit=100.0)
        100.0
    """
    valid, exceeding = 0.0, math.inf
    scale = min(start, limit)
    for _ in range(trials):
        cost = measure(scale)
        if cost <= budget:  # false for NaN
            valid = scale
            if cost >= closeness * budget or scale >= limit:
                return scale
        else:
            exceeding = scale
        if math.isinf(exceeding):
            scale = min(scale * _FACTOR, limit)
        else:
            scale = math.sqrt(valid * exceeding) if valid else scale / _FACTOR
        if scale in (valid, exceeding):  # no number lies between them
            break
    return valid
