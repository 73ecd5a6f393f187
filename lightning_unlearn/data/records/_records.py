from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from lightning_unlearn.data.records._record import QuestionAnswer, Record


class Records(ABC):
    """Rows with named fields, wherever they come from, and a selection among them.

    A benchmark set is a subclass with :meth:`read`; YAML builds it by its ``class_path``.

    Args:
        question: Field with the question.
        answer: Field with the answer.
        entity: Field with the name of whom a row is about, or how many consecutive rows are about the same one. By
            default every row is about something else.
        where: Keep the rows whose field, as text, is one of the listed values: ``{"group": ["forget"]}``.
        rows: Of the rows that ``where`` keeps, take a half-open range, as in a slice: ``(0, 40)``, ``(-400, None)``.

    Example:
        >>> class Capitals(Records):
        ...     def read(self):
        ...         return [{"question": f"Capital of {land}?", "answer": city} for land, city in [("Peru", "Lima")]]
        >>> Capitals().questions()[0].answer
        'Lima'
    """

    def __init__(
        self,
        *,
        question: str = "question",
        answer: str = "answer",
        entity: int | str | None = None,
        where: dict[str, list[str]] | None = None,
        rows: tuple[int | None, int | None] | None = None,
    ) -> None:
        if isinstance(entity, int) and entity < 1:
            raise ValueError(f"`entity` should be a field or a positive number of rows. Found `entity = {entity}`.")
        self.question = question
        self.answer = answer
        self.entity = entity
        self.where = where
        self.rows = rows

    @property
    def name(self) -> str:
        """Name of this source in messages."""
        return type(self).__name__

    @abstractmethod
    def read(self) -> Iterable[Mapping[str, Any]]:
        """All rows, also those not selected: row numbers, and entities given by a count, refer to all of them."""

    @cached_property
    def selected(self) -> list[Record]:
        """The rows that ``where`` and ``rows`` keep, read once.

        Raises:
            ValueError: If there are none.
        """
        named = [Record(fields, index, f"row {index} of `{self.name}`") for index, fields in enumerate(self.read())]
        wanted = (self.where or {}).items()
        kept = [record for record in named if all(str(record[field]) in values for field, values in wanted)]
        kept = kept[slice(*self.rows)] if self.rows else kept
        if not kept:
            raise ValueError(
                f"`where` and `rows` should keep at least one of the {len(named)} rows of `{self.name}`. Found none "
                f"with `where = {self.where}` and `rows = {self.rows}`."
            )
        return kept

    def parse(self, record: Record) -> QuestionAnswer:
        """Read the question, the answer and the entity of one row."""
        return record.parse(question=self.question, answer=self.answer, entity=self.entity)

    def questions(self) -> list[QuestionAnswer]:
        """The selected rows, parsed."""
        return [self.parse(record) for record in self.selected]
