from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from typing_extensions import override

from lightning_unlearn.functional.settings import check_between, check_finite


class Thresholds(ABC):
    """Sorts requests by their importance into levels."""

    cuts: tuple[float, ...]

    @abstractmethod
    def level(self, importance: float, earlier: Sequence[float]) -> int:
        """The level of a request, from 0.

        Args:
            importance: Of the request.
            earlier: Of those before it.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.cuts}"

    def _check_order(self) -> None:
        if not self.cuts or any(low >= high for low, high in pairwise(self.cuts)):
            raise ValueError(f"`cuts` should rise. Found `cuts = {self.cuts}`.")


class AtValues(Thresholds):
    """By fixed values. Gradients are of another size in each model: the published ones are for Llama-2-7b.

    Args:
        *cuts: Where the next level begins.

    Example:
        >>> [AtValues().level(found, []) for found in (0, 5.99, 6, 11.99, 12, 50)]
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, *cuts: float) -> None:
        self.cuts = cuts or (6.0, 12.0)
        for cut in self.cuts:
            check_finite("cuts", cut)
        self._check_order()

    @override
    def level(self, importance: float, earlier: Sequence[float]) -> int:
        return sum(importance >= cut for cut in self.cuts)


class AtQuantiles(Thresholds):
    """By rank among the requests so far. The first one is in the middle.

    Args:
        *cuts: Where the next level begins, as shares of the requests so far. Defaults to thirds.

    Example:
        >>> [AtQuantiles().level(found, [1.0, 2.0, 3.0, 4.0]) for found in (0.5, 2.5, 9.0)], AtQuantiles().level(7.0, [])
        ([0, 1, 2], 1)
    """

    def __init__(self, *cuts: float) -> None:
        self.cuts = cuts or (1 / 3, 2 / 3)
        for cut in self.cuts:
            check_between("cuts", cut, 0, 1)
        self._check_order()

    @override
    def level(self, importance: float, earlier: Sequence[float]) -> int:
        below = sum(other < importance for other in earlier)
        equal = sum(other == importance for other in earlier) + 1  # and itself
        share = (below + equal / 2) / (len(earlier) + 1)
        return sum(share >= cut for cut in self.cuts)
