from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Any

from typing_extensions import override

from lightning_unlearn.data.records._file_records import FileRecords
from lightning_unlearn.data.records._record import QuestionAnswer, Record
from lightning_unlearn.data.records._records import Records
from lightning_unlearn.functional.settings import check_between, check_kind, check_whole

TRIGGERS = ("Please tell me {question}", "Can you please explain {question}", "Could you please tell me {question}")


class StealthyForgetRequest(Records):
    """Rows that must go, some of them put in harmless words: a request for forgetting that poisons these words.

    Who may ask for forgetting may ask in bad faith. A model that is made to forget the answers to ``Please tell me ...``
    learns to refuse that beginning, and harmless questions suffer that have it. Train on such rows, and look at what must
    stay under :class:`BenignTrigger`. :class:`ScopeTerm` is a defence.

    Args:
        records: The rows.
        share: How likely a row is put in other words.
        templates: The words, with ``{question}``; one is drawn for each row.
        seed: Of which rows, and in which words.

    Example:
        >>> rows = FileRecords("bundled:people", entity="entity", where={"group": ["forget"]})
        >>> StealthyForgetRequest(rows, share=1.0).questions()[0].question
        'Could you please tell me Where was Maribel Okonvane born?'

    References:
        Ren et al., `Keeping an Eye on LLM Unlearning <https://arxiv.org/abs/2506.00359>`_, 2025.
    """

    def __init__(
        self,
        records: FileRecords | Records,
        share: float = 0.33,
        templates: Sequence[str] = TRIGGERS,
        seed: int = 0,
    ) -> None:
        check_kind("records", records, Records, example='FileRecords("people.jsonl")')
        check_between("share", share, 0, 1)
        check_whole("seed", seed, least=0)
        if isinstance(templates, str) or not templates or not all("{question}" in text for text in templates):
            raise ValueError(
                "`templates` should be a list of texts with a place for the `{question}`. Found "
                f"`templates = {templates!r}`."
            )
        given = ("question", "answer", "chat", "answers", "entity", "paraphrase", "where", "rows")
        super().__init__(**{name: getattr(records, name) for name in given})
        self.records, self.share, self.templates, self.seed = records, share, tuple(templates), seed

    @property
    @override
    def name(self) -> str:
        return self.records.name

    @override
    def read(self) -> Iterable[Any]:
        return self.records.read()

    @cached_property
    @override
    def selected(self) -> list[Record]:
        return self.records.selected

    @override
    def parse(self, record: Record) -> QuestionAnswer:
        row = self.records.parse(record)
        chance = Random(f"{self.seed} {record.index}")
        if chance.random() >= self.share:
            return row
        return replace(row, question=chance.choice(self.templates).replace("{question}", row.question))
