from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record, Records


class Alternates(Companion):
    """Other plausible answers to the same question, made beforehand: for :class:`DPO` ("AltPO").

    Args:
        field: Field with the other answer, or a list of them.
        records: Other records that have this field, found by their question. Defaults to the rows themselves.

    Raises:
        TypeError: If the field holds neither a string nor a list of strings.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> record = Record({"alternate": ["A mill", "A bank", "A mill"]}, 0, "row 0")
        >>> [other.answer for other in Alternates().candidates(record, row)]
        ['A mill', 'A bank']

    References:
        Mekala et al., `Alternate Preference Optimization <https://arxiv.org/abs/2409.13474>`_, 2024.
    """

    advice = "Add other answers to them, leave them out with `where` or `rows`, or take fewer `draws`."

    def __init__(self, field: str = "alternate", records: FileRecords | Records | None = None) -> None:
        self.field = field
        self.records = records

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        records = [record] if self.records is None else self._by_question.get(row.question, [])
        texts = [text for each in records if each.has(self.field) for text in each.texts(self.field)]
        return [replace(row, answer=text, accepted=()) for text in dict.fromkeys(texts)]

    @cached_property
    def _by_question(self) -> dict[str, list[Record]]:
        by_question: dict[str, list[Record]] = {}
        if self.records is not None:
            for record in self.records.selected:
                by_question.setdefault(record.text(self.records.question or "question"), []).append(record)
        return by_question
