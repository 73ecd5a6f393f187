from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record


class Refusals(Companion):
    """Refusals to the same question: "I don't know".

    For :class:`DPO` with :class:`PairedReadout` ("IdkDPO"), or :class:`CrossEntropy` with :class:`CompanionReadout`.

    Args:
        path: A file, as of :class:`FileRecords`, with refusals in the field ``answer``.

    Example:
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> Refusals().candidates(Record({}, 0, "row 0"), row)[0].answer
        "I don't know the answer to that."

    References:
        Maini et al., `TOFU <https://arxiv.org/abs/2401.06121>`_, 2024, whose code draws a refusal anew at each visit.
    """

    def __init__(self, path: str = "bundled:idk") -> None:
        self.path = path

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        return [replace(row, answer=text, accepted=()) for text in self._texts]

    @cached_property
    def _texts(self) -> list[str]:
        return list(dict.fromkeys(record.text("answer") for record in FileRecords(self.path).selected))
