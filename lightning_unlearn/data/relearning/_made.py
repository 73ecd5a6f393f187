from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records import QuestionAnswer, Record, Records

_MADE = "row"


class MadeRecords(Records):
    """Questions and answers that are made. A subclass says how, in :meth:`make`."""

    def __init__(self) -> None:
        super().__init__(entity="entity")

    @abstractmethod
    def make(self) -> Sequence[QuestionAnswer]:
        """The rows, the same each time."""

    @override
    def read(self) -> Iterable[Mapping[str, Any]]:
        made = self.make()
        return [{"question": r.question, "answer": r.answer, "entity": r.entity, _MADE: r} for r in made]

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        row: QuestionAnswer = record[_MADE]  # with what else is known of it, such as turns before the question
        return row
