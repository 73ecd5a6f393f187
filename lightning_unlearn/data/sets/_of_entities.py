from __future__ import annotations

from collections.abc import Collection

from typing_extensions import override

from lightning_unlearn.data.records import Record, Records
from lightning_unlearn.data.relearning._chosen import ChosenRecords


class OfEntities(ChosenRecords):
    """The rows of other records that are about given entities.

    Args:
        records: All rows.
        names: The entities.

    Example:
        >>> from lightning_unlearn.data import FileRecords
        >>> people = FileRecords("bundled:people", entity="entity")
        >>> len(OfEntities(people, ["Maribel Okonvane"]).questions())
        6
    """

    def __init__(self, records: Records, names: Collection[str]) -> None:
        super().__init__(records)
        self.names = frozenset(names)

    @property
    @override
    def name(self) -> str:
        return self.pool.name

    @override
    def choose(self, records: list[Record]) -> list[Record]:
        return [record for record in records if record.about(self.pool.entity) in self.names]
