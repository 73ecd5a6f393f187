from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from typing_extensions import override

from lightning_unlearn.functional.levels import levels, place_among
from lightning_unlearn.functional.settings import check_between, check_finite


class Thresholds(ABC):
    """Sorts requests by their importance into three levels."""

    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"`low` should be below `high`. Found `low = {low}` and `high = {high}`.")
        self.low, self.high = low, high

    def level(self, importance: float, earlier: Sequence[float]) -> int:
        """The level of a request: 0, 1 or 2.

        Args:
            importance: Of the request.
            earlier: Of those before it.
        """
        place = torch.tensor(self.place(importance, earlier), dtype=torch.float64)
        return int(levels(place, (self.low, self.high)))

    @abstractmethod
    def place(self, importance: float, earlier: Sequence[float]) -> float:
        """What is compared with the thresholds. Arguments are those of :meth:`level`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.low:g}, {self.high:g})"


class AtValues(Thresholds):
    """By fixed values. Gradients are of another size in each model: the published ones are for Llama-2-7b.

    Args:
        low: Where level 1 begins.
        high: Where level 2 begins.

    Example:
        >>> [AtValues().level(found, []) for found in (0, 5.99, 6, 11.99, 12, 50)]
        [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, low: float = 6.0, high: float = 12.0) -> None:
        check_finite("low", low)
        check_finite("high", high)
        super().__init__(low, high)

    @override
    def place(self, importance: float, earlier: Sequence[float]) -> float:
        return importance


class AtQuantiles(Thresholds):
    """By rank among the requests so far. The first one is in the middle.

    Args:
        low: Where level 1 begins, as a share of the requests so far.
        high: Where level 2 begins.

    Example:
        >>> [AtQuantiles().level(found, [1.0, 2.0, 3.0, 4.0]) for found in (0.5, 2.5, 9.0)], AtQuantiles().level(7.0, [])
        ([0, 1, 2], 1)
    """

    def __init__(self, low: float = 1 / 3, high: float = 2 / 3) -> None:
        check_between("low", low, 0, 1)
        check_between("high", high, 0, 1)
        super().__init__(low, high)

    @override
    def place(self, importance: float, earlier: Sequence[float]) -> float:
        return place_among(importance, earlier)
