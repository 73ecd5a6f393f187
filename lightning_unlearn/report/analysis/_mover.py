"""Intervals of sums and ratios of numbers that bring an interval of their own, such as an AUC."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq

from lightning_unlearn.report.schema import Interval


def holds_zero(ends: tuple[float, float]) -> bool:
    """Whether 0 is in an interval.

    Example:
        >>> holds_zero((-0.5, 0.5)), holds_zero((0.25, 0.5))
        (True, False)
    """
    return ends[0] <= 0 <= ends[1]


def interval_of_sum(parts: Sequence[Interval], weights: Sequence[float]) -> tuple[float, float]:
    r"""The interval of :math:`\sum_i w_i \theta_i` from those of its parts, as if these were independent.

    .. math:: L = \sum_i w_i \theta_i - \sqrt{\sum_i \min(w_i (l_i - \theta_i), w_i (u_i - \theta_i))^2}

    and the upper end likewise (MOVER). Parts of the same examples mostly rise and fall together; for differences this is
    then too wide, never too narrow.

    Args:
        parts: Numbers with finite intervals.
        weights: One for each.

    Example:
        >>> low, high = interval_of_sum([Interval(0.75, 0.5, 1.0), Interval(0.25, 0.25, 0.25)], [1, -1])
        >>> low, high
        (0.25, 0.75)

    References:
        Zou and Donner, *Construction of Confidence Limits about Effect Measures: A General Approach*, Statistics in
        Medicine, 2008.
    """
    value = sum(weight * part.value for part, weight in zip(parts, weights, strict=True))
    ends = np.array(
        [
            sorted((weight * (end or 0.0) - weight * part.value) for end in (part.low, part.high))
            for part, weight in zip(parts, weights, strict=True)
        ]
    )
    below, above = np.sqrt(np.sum(np.minimum(ends[:, 0], 0) ** 2)), np.sqrt(np.sum(np.maximum(ends[:, 1], 0) ** 2))
    return float(value - below), float(value + above)


def interval_of_ratio(parts: Sequence[Interval], over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """All ratios ``r`` for which the interval of the numerator less ``r`` times the denominator holds 0 (Fieller's way).

    Args:
        parts: Numbers with finite intervals.
        over: Their weights in the numerator.
        under: Their weights in the denominator, whose own interval should not hold 0: the ratio's would be infinite.

    Example:
        >>> exact = [Interval(0.75, 0.75, 0.75), Interval(0.25, 0.25, 0.25)]
        >>> low, high = interval_of_ratio([*exact, Interval(0.5, 0.375, 0.625)], [0, -1, 1], [1, -1, 0])
        >>> round(low, 6), round(high, 6)
        (0.25, 0.75)
    """
    rises = interval_of_sum(parts, under)[0] > 0
    values = np.array([part.value for part in parts])
    ratio = float(values @ np.asarray(over) / (values @ np.asarray(under)))

    def rest(candidate: float) -> tuple[float, float]:
        weights = np.asarray(over, dtype=float) - candidate * np.asarray(under, dtype=float)
        return interval_of_sum(parts, weights.tolist())

    ends = sorted((_end(ratio, -1, rest, rises), _end(ratio, 1, rest, rises)))
    return ends[0], ends[1]


def _end(ratio: float, direction: int, rest: Callable[[float], tuple[float, float]], rises: bool) -> float:
    """The furthest ratio in one direction whose rest still holds 0."""
    # Above the ratio the rest of a positive gap is negative, so its upper end is the last to leave 0.
    which = 1 if (direction > 0) is rises else 0
    away = 1e-9
    while rest(ratio + direction * away)[0] <= 0 <= rest(ratio + direction * away)[1]:
        away *= 2
    return float(brentq(lambda candidate: rest(candidate)[which], ratio, ratio + direction * away))
