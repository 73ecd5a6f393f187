from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet


class CyclicOrder(Order):
    """Every row of the longer set once, in order; the shorter one again and again. The same in each epoch.

    Which set is longer is counted in batches.

    Example:
        >>> CyclicOrder().rows(RowSet("ab", 1), RowSet("cdefg", 1), seed=0, epoch=0)
        EpochRows(forget=[0, 1, 0, 1, 0], retain=[0, 1, 2, 3, 4])
    """

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        return EpochRows(_turns(forget, retain), _turns(retain, forget))


def _turns(own: RowSet, other: RowSet) -> list[int]:
    # As many batches as the longer set has; `rows_for` turns its batches into rows of this one.
    return [row % len(own) for row in range(max(len(own), own.rows_for(other)))]
