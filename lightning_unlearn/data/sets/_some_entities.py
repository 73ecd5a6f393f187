from __future__ import annotations

from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data.records import FileRecords, Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords
from lightning_unlearn.functional.settings import check_kind, check_whole


class SomeEntities(ChosenRecords):
    """All rows of some entities of other records, drawn with a seed: a smaller version of a set.

    Entities are put in an order that depends on the seed and their number alone; taken are ``count`` of them, after the
    first ``skip``. So with one seed a smaller draw is a part of a larger one, and draws with another ``skip`` share none.

    Args:
        records: All rows.
        count: How many entities; ``None`` for all that are left.
        skip: How many are left out before.
        seed: Of the order.

    Raises:
        ValueError: If there are not so many entities.

    Example:
        >>> people = FileRecords("bundled:people", entity="entity", where={"group": ["forget"]})
        >>> one, others = SomeEntities(people, 1), SomeEntities(people, 2, skip=1)
        >>> len({row.entity for row in (*one.questions(), *others.questions())})
        3
    """

    def __init__(self, records: FileRecords | Records, count: int | None = None, skip: int = 0, seed: int = 0) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl", entity="name")')
        if count is not None:
            check_whole("count", count, why=", or `None` for all")
        check_whole("skip", skip, least=0)
        check_whole("seed", seed, least=0)
        super().__init__(records)
        self.count, self.skip, self.seed = count, skip, seed

    @property
    @override
    def name(self) -> str:
        return self.pool.name

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        about = [record.about(self.pool.entity) for record in records]
        entities = list(dict.fromkeys(about))
        wanted = self.skip + (1 if self.count is None else self.count)
        if len(entities) < wanted:
            raise ValueError(
                f"`{self.pool.name}` should have {wanted} entities or more. Found {len(entities)}. Take fewer, or say by "
                "`entity` what its rows are about."
            )
        order = shuffled(len(entities), self.seed)[self.skip :]
        taken = {entities[place] for place in order[: self.count]}
        return [record for record, name in zip(records, about, strict=True) if name in taken]
