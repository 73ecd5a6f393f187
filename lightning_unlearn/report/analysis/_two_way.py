"""Intervals over two things at once that were drawn: seeds of training, and entities."""

import math

from lightning_unlearn.report.analysis._statistics import Floats
from lightning_unlearn.report.analysis._studentised import standard_error, studentised_interval, students_t


def two_way_interval(
    over: Floats, under: Floats, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    r"""The interval of :math:`\sum_{si} N_{si} / \sum_{si} D_{si}` over seeds ``s`` and entities ``i``, both drawn.

    The same entities are judged in every run, so the two are crossed. Each brings a distance of its own from the number to
    the end of its interval: entities by :func:`studentised_interval` of the sums over seeds, seeds by Student's t of the
    sums over entities. The distances are at right angles:

    .. math:: d = \sqrt{d_\mathrm{entities}^2 + d_\mathrm{seeds}^2}

    What varies by seed and entity at once counts in both, so this errs towards wide. With three seeds t is 4.3, and the
    interval is as wide as three seeds are; resampling three seeds is far too narrow (``benchmarks/interval_coverage.py``).

    Args:
        over: The numerators, ``[seeds, entities]``.
        under: The denominators, as many.
        draws: Number of resamples of the entities.
        seed: Of the resamples.
        level: How often the interval should hold the truth.

    Example:
        >>> import numpy as np
        >>> low, high = two_way_interval(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), np.ones((2, 3)))
        >>> bool(low < 2.5 < high)
        True

    References:
        Cameron, Gelbach and Miller, *Robust Inference with Multiway Clustering*, JBES, 2011 (the two variances); Zou and
        Donner, Statistics in Medicine, 2008 (the sum of distances).
    """
    value = over.sum() / under.sum()
    by_seed, gaps = over.sum(1), under.sum(1)
    seeds = students_t(level, len(over) - 1) * float(standard_error(by_seed - value * gaps, gaps))
    low, high = studentised_interval(over.sum(0), under.sum(0), draws=draws, seed=seed, level=level)
    return float(value - math.hypot(value - low, seeds)), float(value + math.hypot(high - value, seeds))
