from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet


class RandomOrder(Order):
    """Every forget row once, shuffled anew each epoch, with as many batches of retain rows drawn anew.

    Retain rows are drawn without replacement while there are enough of them.

    Example:
        >>> rows = RandomOrder().rows(RowSet("abc", 1), RowSet("defgh", 1), seed=0, epoch=0)
        >>> sorted(rows.forget), len(set(rows.retain))
        ([0, 1, 2], 3)
    """

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        # Even numbers are for forget rows, odd ones for retain rows: the two orders are unrelated.
        return EpochRows(
            shuffled(len(forget), seed, 2 * epoch), drawn(len(retain), retain.rows_for(forget), seed, 2 * epoch + 1)
        )


def drawn(size: int, count: int, *seeds: int) -> list[int]:
    """``count`` of the numbers below ``size``, each once before any comes again.

    Example:
        >>> sorted(drawn(3, 6, 0))
        [0, 0, 1, 1, 2, 2]
    """
    rounds = (shuffled(size, *seeds, number) for number in range(-(-count // size)))
    return [row for one_round in rounds for row in one_round][:count]
