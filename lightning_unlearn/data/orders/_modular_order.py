from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._neighbourhood import Neighbourhood
from lightning_unlearn.data.orders._neighbours_order import NeighboursOrder
from lightning_unlearn.data.orders._order import RowSet


class ModularOrder(NeighboursOrder):
    """Entity by entity: all forget rows about one, with its neighbours among the retain rows, then all about the next.

    Entities, and the rows of each, come in another order in each epoch.

    Args:
        neighbourhood: Which retain rows go with a forget row. Defaults to :class:`MostAlike`; :class:`SameEntity` where
            other facts about the same entity must stay.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Bo", "Ada", "Bo"]
        >>> from lightning_unlearn.data import SameEntity
        >>> order = ModularOrder(SameEntity())
        >>> rows = order.rows(RowSet(Rows("abcd"), 1), RowSet(Rows("efgh"), 1), seed=0, epoch=0)
        >>> [row % 2 for row in rows.forget] == [row % 2 for row in rows.retain], rows.forget[0] % 2 == rows.forget[1] % 2
        (True, True)

    References:
        `MELU <https://arxiv.org/abs/2509.05316>`_, 2025. Its released code joins the pairs beforehand and lets the trainer
        shuffle them, so that the pairing remains, and not the order entity by entity; here both do.
    """

    def __init__(self, neighbourhood: Neighbourhood | None = None) -> None:
        super().__init__(neighbourhood)

    @override
    def visited(self, forget: RowSet, seed: int, epoch: int) -> list[int]:
        groups = list(forget.groups().values())
        in_turn = ((number, groups[number]) for number in shuffled(len(groups), seed, 2 * epoch))
        return [rows[place] for number, rows in in_turn for place in shuffled(len(rows), seed, 2 * epoch, number)]
