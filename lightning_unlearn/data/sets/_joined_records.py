from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records import QuestionAnswer, Record, Records


class JoinedRecords(Records):
    """The rows of several records, one after the other, each read as its own say.

    Entities that are numbers of rows go on from part to part, so that no two parts share one.

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
        # Those of joined ones by themselves: each is numbered in its own way.
        self.parts: tuple[Records, ...] = tuple(
            own for part in parts for own in (part.parts if type(part) is JoinedRecords else [part])
        )

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
        return [
            replace(record, index=record.index + before)
            for part, before in zip(self.parts, self._before, strict=True)
            for record in part.selected
        ]

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        part, own = self._origin[id(record)]
        row = part.parse(own)
        by_record = row.entity == own.about(part.entity)
        return replace(row, entity=record.about(part.entity)) if by_record else row

    @cached_property
    def _origin(self) -> dict[int, tuple[Records, Record]]:
        """The part that each selected row is from, and the row there."""
        there = [(part, record) for part in self.parts for record in part.selected]
        return {id(here): origin for here, origin in zip(self.selected, there, strict=True)}

    @cached_property
    def _before(self) -> list[int]:
        """What is added to the numbers of each part's rows."""
        found, names = [], 0
        for number, part in enumerate(self.parts, 1):
            each = part.entity if isinstance(part.entity, int) else 1
            found.append(names * each)
            # The last part need not be counted: a corpus is large.
            names += -(-sum(1 for _ in part.read()) // each) if number < len(self.parts) else 0
        return found
