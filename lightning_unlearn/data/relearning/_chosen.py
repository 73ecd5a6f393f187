from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records import QuestionAnswer, Record, Records


class ChosenRecords(Records):
    """Some rows of other records, which say how each is read.

    Args:
        pool: The records to choose from, with what they select among their rows.
    """

    def __init__(self, pool: Records) -> None:
        super().__init__(entity=pool.entity)
        self.pool = pool

    @property
    @override
    def name(self) -> str:
        return f"{type(self).__name__} of {self.pool.name}"

    @abstractmethod
    def choose(self, records: list[Record]) -> list[Record]:
        """Those that are taken of the pool's ``records``."""

    @override
    def read(self) -> Iterable[Any]:
        return self.pool.read()

    @cached_property
    @override
    def selected(self) -> list[Record]:
        if chosen := self.choose(self.pool.selected):
            return chosen
        raise ValueError(
            f"`{type(self).__name__}` should find rows in `{self.pool.name}`. Found none of {len(self.pool.selected)} that "
            "will do. Give a larger `pool`."
        )

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        return self.pool.parse(record)


def text_of(records: Records, record: Record, field: str = "text") -> str:
    """A row as it is read: its field of text, itself if it is a text, else its question and answer."""
    whole: object = record.fields
    if isinstance(whole, str):
        return whole
    if record.has(field):
        return record.text(field)
    row = records.parse(record)
    return f"{row.question} {row.answer}"
