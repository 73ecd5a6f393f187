"""Words that are more frequent in some texts than in others, beyond what chance gives."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Counted:
    """How many rows have a word, cluster by cluster.

    Args:
        having: Rows with the word in each cluster; clusters without it may be left out.
        sizes: Rows in all of the same clusters.
        total: Rows in all clusters.
        clusters: How many clusters there are.
    """

    having: tuple[int, ...]
    sizes: tuple[int, ...]
    total: int
    clusters: int

    @property
    def rows(self) -> int:
        """Rows with the word."""
        return sum(self.having)

    @property
    def log_odds(self) -> float:
        """Of a row to have the word; half a row is added to both sides, so that it is finite."""
        return math.log((self.rows + 0.5) / (self.total - self.rows + 0.5))

    @property
    def variance(self) -> float:
        """Of :attr:`log_odds`, with rows of one cluster not taken for independent."""
        binomial = 1 / (self.rows + 0.5) + 1 / (self.total - self.rows + 0.5)
        return binomial * max(1.0, self._design_effect())

    def _design_effect(self) -> float:
        share = self.rows / self.total
        if not 0 < share < 1 or self.clusters < 2:
            return 1.0
        given = sum((have - share * size) ** 2 for have, size in zip(self.having, self.sizes, strict=True))
        # Clusters without the word: `share * size` rows short. Their sizes are not known one by one: taken as equal.
        absent, rows = self.clusters - len(self.sizes), self.total - sum(self.sizes)
        missing = (share * rows) ** 2 / absent if absent else 0.0
        between = (given + missing) * self.clusters / (self.clusters - 1)
        return between / (self.total * share * (1 - share))


def over_represented(some: Counted, others: Counted) -> tuple[float, float]:
    r"""The log of the odds ratio of having a word, and the one-sided p-value of its being above 0.

    .. math:: z = \frac{\log o_1 - \log o_2}{\sqrt{v_1 + v_2}}

    with half a row added to each count, and variances widened by the design effect of clusters.

    Example:
        >>> please, seldom = Counted((3, 4), (6, 6), 12, 2), Counted((1,), (1,), 100, 100)
        >>> ratio, p = over_represented(please, seldom)
        >>> round(ratio, 1), p < 0.01
        (4.5, True)

    References:
        Woolf's interval for an odds ratio with Haldane's correction; Kish, *Survey Sampling*, 1965, for the design effect.
    """
    ratio = some.log_odds - others.log_odds
    return ratio, math.erfc(ratio / math.sqrt(2 * (some.variance + others.variance))) / 2
