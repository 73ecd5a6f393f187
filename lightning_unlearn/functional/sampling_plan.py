"""When to stop drawing answers, and what may be said afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from lightning_unlearn.functional.proportions import clopper_pearson
from lightning_unlearn.functional.settings import check_between, check_whole


@dataclass(frozen=True)
class SamplingPlan:
    r"""Draw answers in rounds, and stop once it is known well enough how often one of ``k`` is right.

    After each round the plan stops if the 95 % interval of :math:`1 - (1 - p)^k` is at most ``width`` wide, or the budget is
    spent. Stopping when the answers look clear would bias :func:`leak_at_k`. :meth:`estimate` is unbiased all the same: it
    is the share of the orders in which ``n`` answers with ``c`` right ones could have come, without stopping earlier, that
    have a right one among the first ``k``.

    Args:
        k: Number of answers asked about.
        per_round: Answers per round, at least ``k``.
        most: The budget: answers in all, a multiple of ``per_round``.
        width: Width of an interval that is narrow enough; 0 always spends the budget.

    Raises:
        ValueError: If a round is smaller than ``k``, or the budget is no multiple of it.

    Example:
        >>> plan = SamplingPlan(k=4, per_round=8, most=32, width=0.2)
        >>> plan.stops(8, 8), plan.stops(8, 0), plan.stops(32, 0)
        (True, False, True)
        >>> plan.estimate(8, 8), plan.estimate(32, 0)
        (1.0, 0.0)
    """

    k: int = 16
    per_round: int = 32
    most: int = 128
    width: float = 0.1

    def __post_init__(self) -> None:
        for name in ("k", "per_round", "most"):
            check_whole(name, getattr(self, name))
        check_between("width", self.width, 0, 1)
        if self.per_round < self.k:
            raise ValueError(
                f"`per_round` should be at least `k = {self.k}`: the first `k` answers must have come before the plan may "
                f"stop. Found `per_round = {self.per_round}`."
            )
        if self.most % self.per_round:
            raise ValueError(
                f"`most` should be a multiple of `per_round = {self.per_round}`. Found `most = {self.most}`."
            )

    def stops(self, n: int, c: int) -> bool:
        """Whether ``n`` answers, ``c`` of them right, are enough."""
        if n >= self.most:
            return True
        low, high = (1 - (1 - p) ** self.k for p in clopper_pearson(c, n))
        return self.width > 0 and high - low <= self.width

    def estimate(self, n: int, c: int, k: int | None = None) -> float:
        """Unbiased estimate that at least one of ``k`` answers is right, after the plan stopped at ``n`` with ``c`` right.

        Args:
            n: Answers drawn, a multiple of ``per_round``.
            c: How many of them are right.
            k: At most :attr:`k`, which is the default.
        """
        first = self.k if k is None else k
        if not 1 <= first <= self.k:
            raise ValueError(f"`k` should be between 1 and {self.k}. Found `k = {k}`.")
        return 1 - _orders(self, n, first).get(c, 0) / _orders(self, n, 0)[c]


@cache
def _orders(plan: SamplingPlan, n: int, without: int) -> dict[int, int]:
    """In how many orders ``n`` answers may come, by the number of right ones, with none among the first ``without``."""
    if n == 0:
        return {0: 1}
    free = plan.per_round - (without if n == plan.per_round else 0)
    reached: dict[int, int] = {}
    for c, orders in _orders(plan, n - plan.per_round, without).items():
        before = n - plan.per_round
        if before and plan.stops(before, c):
            continue  # no further answer was drawn from there
        for more in range(free + 1):
            reached[c + more] = reached.get(c + more, 0) + orders * math.comb(free, more)
    return reached
