"""Intervals of a share of yes among yes and no."""

import numpy as np

from lightning_unlearn.functional.proportions import clopper_pearson
from lightning_unlearn.report.analysis._statistics import Floats
from lightning_unlearn.report.analysis._studentised import students_t


def share_interval(yes: Floats, counts: Floats, *, level: float = 0.95) -> tuple[float, float]:
    r"""The exact (Clopper-Pearson) interval of a share, of as many examples as the entities are worth.

    If each entity has one row, these are the examples themselves. Otherwise rows of an entity resemble each other, and
    count for less: :math:`n_\mathrm{eff} = p (1 - p) / \mathrm{var}(p)` with the variance over entities, corrected for their
    number (Korn and Graubard). If all answers are the same there is no variance to see, and each entity counts once.

    Args:
        yes: Number of rows of each entity that are 1, ``[m]``.
        counts: Number of its rows, ``[m]``.
        level: How often the interval should hold the truth.

    Example:
        >>> low, high = share_interval(np.zeros(10), np.ones(10))
        >>> low, round(high, 4)  # 1 - 0.025 ** (1 / 10)
        (0.0, 0.3085)

    References:
        Clopper and Pearson, *The Use of Confidence or Fiducial Limits*, Biometrika, 1934; Korn and Graubard, *Confidence
        Intervals for Proportions with Small Expected Number of Positive Counts*, Survey Methodology, 1998.
    """
    share = float(yes.sum() / counts.sum())
    trials = float(len(counts)) if share in (0.0, 1.0) or (counts == 1).all() else _worth(yes, counts, share, level)
    # Not by the product where it is certain: rounding would leave a trial over.
    return clopper_pearson(trials if share == 1 else share * trials, trials, level=level)


def _worth(yes: Floats, counts: Floats, share: float, level: float) -> float:
    entities, rows = len(counts), counts.sum()
    variance = entities / (entities - 1) * np.sum((yes - share * counts) ** 2) / rows**2
    worth = min(share * (1 - share) / variance, rows) if variance > 0 else rows
    few = students_t(level, rows - 1) / students_t(level, entities - 1)
    return float(worth * few**2)
