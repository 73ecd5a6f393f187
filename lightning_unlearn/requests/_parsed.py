from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.data import InMemoryRecords, QuestionAnswer


class Parsed(InMemoryRecords):
    """Rows that were parsed already, from whatever records.

    Args:
        rows: They.
    """

    def __init__(self, rows: Sequence[QuestionAnswer]) -> None:
        super().__init__([])
        self.parsed = list(rows)

    @override
    def questions(self) -> list[QuestionAnswer]:
        return self.parsed
