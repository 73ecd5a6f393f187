from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.orders._order import EpochRows, Order, RowSet
from lightning_unlearn.data.orders._random_order import drawn
from lightning_unlearn.functional.settings import check_whole


class ReoccurringOrder(Order):
    """Every forget row once, shuffled, with retain rows of few entities, others in each epoch: each recurs.

    An epoch is a task with ``entities`` of the :math:`E` retain entities, drawn without replacement; so each is in an epoch
    with frequency ``entities / E``, and is left alone in all others. Within an epoch the rows of its entities come as
    evenly as can be.

    Args:
        entities: In each epoch; fewer if there are not so many.

    Example:
        >>> class Rows(list):
        ...     entities = ["Ada", "Ada", "Bo", "Cy"]
        >>> rows = ReoccurringOrder(entities=1).rows(RowSet("abcd", 1), RowSet(Rows("efgh"), 1), seed=0, epoch=0)
        >>> len({Rows.entities[row] for row in rows.retain})
        1

    References:
        Lesort et al., `Challenging Common Assumptions about Catastrophic Forgetting (SCoLe)
        <https://arxiv.org/abs/2207.04543>`_, CoLLAs 2023.
    """

    def __init__(self, entities: int = 2) -> None:
        check_whole("entities", entities)
        self.entities = entities

    @override
    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        groups, wanted = list(retain.groups().values()), retain.rows_for(forget)
        chosen = shuffled(len(groups), seed, 2 * epoch + 1)[: self.entities]
        pool = [row for number in sorted(chosen) for row in groups[number]]
        own = [pool[place] for place in drawn(len(pool), wanted, seed, 2 * epoch + 1)]
        return EpochRows(shuffled(len(forget), seed, 2 * epoch), own)
