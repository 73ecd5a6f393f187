from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.data.orders._random_order import drawn
from lightning_unlearn.functional.settings import check_whole


class SpacedOrder(Order):
    """A part of the forget rows in each epoch, each several times in a row: massed views, then a pause of ``views`` epochs.

    In ``views`` epochs each forget row comes once, ``views`` times in one epoch. So an epoch has about as many forget rows
    as any. Retain rows are drawn as by :class:`RandomOrder`.

    Args:
        views: How often in a row, and how many epochs until all have come.
        fixed: Whether the parts are the same in each round, so that the pause is of ``views`` epochs exactly. Otherwise
            they are drawn anew: ``views`` epochs on average, from 1 to ``2 * views - 1``.

    Example:
        >>> order = SpacedOrder(views=2, fixed=True)
        >>> epochs = [order.rows(RowSet("abcd", 1), RowSet("ef", 1), seed=0, epoch=epoch).forget for epoch in range(2)]
        >>> [len(set(epoch)) for epoch in epochs], sorted({*epochs[0], *epochs[1]})
        ([2, 2], [0, 1, 2, 3])

    References:
        `View-batch model <https://arxiv.org/abs/2503.18371>`_, CVPR 2025, whose parts are drawn anew in each round.
    """

    def __init__(self, views: int = 4, fixed: bool = False) -> None:
        check_whole("views", views)
        self.views, self.fixed = views, fixed

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        views = min(self.views, len(forget))  # else some epochs would have no forget row
        cycle, part = divmod(epoch, views)
        order = shuffled(len(forget), seed, 0 if self.fixed else cycle)
        # Rounded up, so that the first part is the largest.
        chosen = order[-(-part * len(forget) // views) : -(-(part + 1) * len(forget) // views)]
        visited = [row for row in chosen for _ in range(views)]
        wanted = len(retain.alongside(forget, visited))
        return EpochRows(visited, drawn(len(retain), wanted, seed, 2 * epoch + 1))
