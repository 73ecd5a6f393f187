"""Whether two samples could be of one distribution, and how near one number is to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import ks_2samp


class TwoSamples(NamedTuple):
    """The outcome of a Kolmogorov-Smirnov test.

    Args:
        statistic: Largest distance between the two empirical distribution functions, in [0, 1].
        p_value: Chance of such a distance, or a larger one, if both samples were of one distribution.
    """

    statistic: float
    p_value: float


def kolmogorov_smirnov(some: Sequence[float], others: Sequence[float]) -> TwoSamples:
    r"""Two-sample, two-sided Kolmogorov-Smirnov test; exact for the sizes that occur here (scipy).

    Equal samples have ``p = 1``. Two samples of ``n`` that do not overlap have :math:`2 / \binom{2n}{n}`, the least there
    is: 1.9e-23 for 40, 1.1e-239 for 400.

    Example:
        >>> kolmogorov_smirnov([0.1, 0.2], [0.3, 0.4])
        TwoSamples(statistic=1.0, p_value=0.3333333333333333)
    """
    found = ks_2samp(some, others)
    return TwoSamples(float(found.statistic), float(found.pvalue))


def symmetric_degree(value: float, target: float) -> float:
    r"""How near a value is to its target, :math:`\max(0, 1 - |v/t - 1|)`: as much too little counts as as much too much.

    Of a target of 0, 1 if the value is 0 too, else 0.

    Example:
        >>> [symmetric_degree(value, 30) for value in (30, 45, 15, 0, 60)]
        [1.0, 0.5, 0.5, 0.0, 0.0]

    References:
        `FIT <https://arxiv.org/abs/2601.21682>`_, 2026: forget degree and retain utility.
    """
    if target == 0:
        return float(value == 0)
    return max(0.0, 1 - abs(value / target - 1))
