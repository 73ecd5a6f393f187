from __future__ import annotations

from collections import Counter
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._neighbourhood import MostAlike, Neighbourhood
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.functional.settings import check_kind


class NeighboursOrder(Order):
    """Every forget row once, shuffled, each in a batch with retain rows that are near it.

    The neighbours of a row take turns: where the batches of both sides are of one size, a row meets each of its
    neighbours once before any comes again.

    Args:
        neighbourhood: Which retain rows are near. Defaults to :class:`MostAlike`.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Bo"]
        >>> from lightning_unlearn.data import SameEntity
        >>> order = NeighboursOrder(SameEntity())
        >>> rows = order.rows(RowSet(Rows("ab"), 1), RowSet(Rows("cd"), 1), seed=0, epoch=0)
        >>> rows.forget == rows.retain
        True
    """

    def __init__(self, neighbourhood: Neighbourhood | None = None) -> None:
        if neighbourhood is not None:
            check_kind("neighbourhood", neighbourhood, Neighbourhood, example="MostAlike()")
        self.neighbourhood = MostAlike() if neighbourhood is None else neighbourhood
        self._found: list[tuple[Any, Any, list[list[int]]]] = []

    @override
    def prepare(self, forget: RowSet, retain: RowSet, trainer: pl.Trainer | None) -> None:
        # Two: the loader of the retain rows and that of the forget rows each have their own selection of the same rows.
        self._found = [*self._found[-1:], (forget.dataset, retain.dataset, self.neighbourhood(forget, retain))]

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        visited = self.visited(forget, seed, epoch)
        near = self._near(forget, retain)
        with_whom = retain.alongside(forget, visited)
        # How many of a row's neighbours came before, in this epoch and in earlier ones.
        before, in_epoch = Counter[int](), Counter(with_whom)
        drawn = []
        for row in with_whom:
            turn = epoch * in_epoch[row] + before[row]
            before[row] += 1
            cycle, place = divmod(turn, len(near[row]))
            drawn.append(near[row][shuffled(len(near[row]), seed, row, cycle)[place]])
        return EpochRows(visited, drawn)

    def visited(self, forget: RowSet, seed: int, epoch: int) -> list[int]:
        """The forget rows of an epoch, in their order."""
        return shuffled(len(forget), seed, 2 * epoch)

    def _near(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
        for gone, stays, near in self._found:
            if gone is forget.dataset and stays is retain.dataset:
                return near
        self.prepare(forget, retain, None)
        return self._found[-1][2]
