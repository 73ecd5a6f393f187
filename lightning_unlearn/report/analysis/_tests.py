"""Whether an attack brought back anything at all, and which of many attacks did."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lightning_unlearn.report.analysis._statistics import Floats


def chance_of_more(totals: Floats) -> float | None:
    """One-sided p-value of Student's t: that the mean over entities is above 0 by chance.

    Scores that come back for few entities only are skewed to the right, for which this errs towards large p-values.

    Args:
        totals: What each independent entity adds, ``[m]``.

    Returns:
        None with fewer than two entities.

    Example:
        >>> round(chance_of_more(np.array([0.5, 0.25, 0.75])), 3)
        0.037
    """
    number = len(totals)
    if number < 2:
        return None
    error, mean = np.std(totals, ddof=1) / math.sqrt(number), float(np.mean(totals))
    if error <= 1e-12 * abs(mean) or error == 0:  # all alike: there is no chance in it
        return 0.0 if mean > 0 else 1.0
    return float(stats.t.sf(mean / error, number - 1))


def false_discovery_rates(families: Sequence[Sequence[float]]) -> list[float]:
    """Benjamini-Hochberg q-values, one for each family of tests of which the smallest counts.

    The points of one attack are a family: its p-value is the smallest times their number (Bonferroni). Over the attacks, a
    q-value of 0.05 says: of the attacks with q-values up to this one, 5 % are expected to have brought back nothing.

    Args:
        families: The p-values of each attack's points.

    Example:
        >>> false_discovery_rates([[0.01, 0.5], [0.04], [0.9]])
        [0.06, 0.06, 0.9]

    References:
        Benjamini and Hochberg, *Controlling the False Discovery Rate*, JRSS B, 1995; valid also where attacks are positively
        dependent (Benjamini and Yekutieli, 2001), as attacks on the same examples are.
    """
    smallest = [min(1.0, min(family) * len(family)) for family in families]
    return list(map(float, stats.false_discovery_control(smallest))) if smallest else []
