from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record, Records


class ConcatenatedQuestion(Companion):
    """A harmless question asked right behind the one that must go, and its answer: for :class:`ScopeTerm`.

    The two are asked in one turn, what must go first, and only the harmless one is answered.

    Args:
        records: The harmless questions, whose answers must stay.

    Example:
        >>> harmless = FileRecords("bundled:people", where={"group": ["retain"]})
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> ConcatenatedQuestion(harmless).candidates(Record({}, 0, "row 0"), row)[0].question
        'Who employs Ada? Where was Tobias Quillfeather born?'

    References:
        Ren et al., `Keeping an Eye on LLM Unlearning <https://arxiv.org/abs/2506.00359>`_, 2025.
    """

    advice = "Keep more `records` to ask behind them, or take fewer `draws`."

    def __init__(self, records: FileRecords | Records) -> None:
        self.records = records

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        return [replace(other, question=f"{row.question} {other.question}") for other in self._harmless]

    @cached_property
    def _harmless(self) -> list[QuestionAnswer]:
        return self.records.questions()
