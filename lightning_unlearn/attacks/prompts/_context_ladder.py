from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.attacks.prompts._templates import checked_wordings
from lightning_unlearn.data import FileRecords, QuestionAnswer, Record, Records
from lightning_unlearn.functional.settings import check_kind


class ContextLadder(PromptAttack):
    """Context of a question, from the general to the specific: a hospital, then the patient, then the study.

    At point ``k`` the first ``k`` levels stand before the question, a line for each, as ``level: value``. What recovers only
    when much is said about the surroundings was not forgotten, but lost from sight. Context has to identify and never to
    tell: where a level holds the answer, the row is left out from there on.

    Args:
        records: Where the context of a row stands: in its own record, found by its question, else in the first record of its
            entity.
        levels: The fields of the context, the most general first.

    Raises:
        ValueError: When it asks, if no row has a context.

    Example:
        >>> from lightning_unlearn import InMemoryRecords
        >>> hospital = InMemoryRecords([{"entity": "Ada", "ward": "East", "room": "12"}], entity="entity")
        >>> row = QuestionAnswer("What ails Ada?", "A cough", entity="Ada", source="row 0")
        >>> print(ContextLadder(hospital, ["ward", "room"]).asks([row], split="forget", point=2)[0].question)
        ward: East
        room: 12
        What ails Ada?

    References:
        Wu et al., `MedForget <https://arxiv.org/abs/2512.09867>`_, 2025; rebuilt from the abstract, since the code of the
        attack is not public.
    """

    unit = "levels"

    def __init__(self, records: FileRecords | Records, levels: Sequence[str]) -> None:
        check_kind("records", records, Records, example='FileRecords("patients.jsonl", entity="patient")')
        self.records, self.levels = records, checked_wordings("levels", levels)

    @property
    @override
    def points(self) -> Sequence[int]:
        return range(1, len(self.levels) + 1)

    @cached_property
    def _by_question(self) -> dict[str, Record]:
        field = self.records.question or "question"
        return {r.text(field): r for r in reversed(self.records.selected) if r.has(field, *self.levels)}

    @cached_property
    def _by_entity(self) -> dict[str, Record]:
        with_context = [r for r in reversed(self.records.selected) if r.has(*self.levels)]
        return {r.about(self.records.entity): r for r in with_context}

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        record = self._by_question.get(row.question) or self._by_entity.get(row.entity)
        if record is None:
            return None
        context = [f"{level}: {record[level]}" for level in self.levels[: int(point)]]
        return replace(row, question="\n".join([*context, row.question]))

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        asked = super().reword_all(rows, split=split, point=point)
        if split == "forget" and not any(asked):
            raise ValueError(
                f"`records` of `ContextLadder` should hold {', '.join(f'`{level}`' for level in self.levels)} for the rows "
                f"of `{split}`. Found no record with their question or their entity. Give `entity`, the field with the name."
            )
        return asked

    @override
    def wording(self, point: float) -> str:
        return f"Context before the question: {', '.join(self.levels[: int(point)])}."
