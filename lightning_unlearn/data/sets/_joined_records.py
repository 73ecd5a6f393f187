from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records import QuestionAnswer, Record, Records


class JoinedRecords(Records):
    """The rows of several records, one after the other, each read as its own say.

    Args:
        parts: The records.

    Raises:
        ValueError: If there are none.

    Example:
        >>> from lightning_unlearn.data import InMemoryRecords
        >>> one, two = (InMemoryRecords([{"question": name, "answer": "yes"}]) for name in "ab")
        >>> [row.question for row in JoinedRecords([one, two]).questions()]
        ['a', 'b']
    """

    def __init__(self, parts: Sequence[Records]) -> None:
        if not parts:
            raise ValueError("`parts` should hold records. Found none.")
        super().__init__(entity=parts[0].entity)
        self.parts = tuple(parts)

    @property
    @override
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    @override
    def read(self) -> Iterable[Any]:
        return (fields for part in self.parts for fields in part.read())

    @cached_property
    @override
    def selected(self) -> list[Record]:
        return [record for part in self.parts for record in part.selected]

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        return self._part_of[id(record)].parse(record)

    @cached_property
    def _part_of(self) -> dict[int, Records]:
        return {id(record): part for part in self.parts for record in part.selected}
