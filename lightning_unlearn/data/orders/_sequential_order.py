from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet


class SequentialOrder(Order):
    """Every forget row once, in order, with the first retain rows, in order. The same in each epoch.

    Example:
        >>> SequentialOrder().rows(RowSet("ab", 1), RowSet("cdefg", 1), seed=0, epoch=0)
        EpochRows(forget=[0, 1], retain=[0, 1])
    """

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        retained = (row % len(retain) for row in range(retain.rows_for(forget)))
        return EpochRows(list(range(len(forget))), list(retained))
