from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from random import Random

from typing_extensions import override

from lightning_unlearn.attacks.prompts._answer_words import content_words
from lightning_unlearn.attacks.prompts._in_context import InContext
from lightning_unlearn.data import FileRecords, QuestionAnswer, Records
from lightning_unlearn.functional.settings import check_kind, check_whole


class FewShot(InContext):
    """Questions about others, with their answers, come before the question: the form of an answer, and no fact of it.

    A shot is never about whom the questions of the split ``forget`` are about, and never mentions one of them. For rows of
    other splits, which may be the shots themselves, it is never about the same entity.

    Args:
        records: What the shots are taken from: questions that the network still answers, with the names of their entities.
        numbers: How many shots are shown.
        seed: Of the order in which shots are chosen.

    Raises:
        ValueError: If ``records`` name no entities, or if there are not enough questions.

    Example:
        >>> others = FileRecords("bundled:people", entity="entity", where={"group": ["retain"]})
        >>> row = QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 0")
        >>> asked = FewShot(others, [2]).asks([row], split="forget", point=2)[0]
        >>> [turn.role for turn in asked.before], asked.question
        (['user', 'assistant', 'user', 'assistant'], 'Where was Ada born?')

    References:
        Lynch et al., `Eight Methods to Evaluate Robust Unlearning in LLMs <https://arxiv.org/abs/2402.16835>`_, 2024.
    """

    def __init__(self, records: FileRecords | Records, numbers: Sequence[int] = (1, 2, 4, 8), seed: int = 0) -> None:
        super().__init__(numbers)
        check_kind("records", records, Records, example='FileRecords("people.jsonl", entity="name")')
        check_whole("seed", seed, least=0)
        if records.entity is None:
            raise ValueError(
                "`records` of `FewShot` should name whom each question is about: no shot may be about what must go. Found "
                "`entity = None`. Use `entity='entity'`, with the name of that field."
            )
        self.records, self.seed = records, seed

    @cached_property
    def _pool(self) -> list[QuestionAnswer]:
        pool = self.records.questions()
        if len(pool) < self.numbers[-1]:
            raise ValueError(
                f"`records` of `FewShot` should hold at least {self.numbers[-1]} questions. Found {len(pool)}. Give "
                "more, or show fewer: `numbers`."
            )
        Random(self.seed).shuffle(pool)
        return pool

    @override
    def shots(self, row: QuestionAnswer, rows: Sequence[QuestionAnswer], *, split: str) -> Iterable[QuestionAnswer]:
        about = {row.entity, *(other.entity for other in rows)} if split == "forget" else {row.entity}
        return (shot for shot in self._pool if shot.question != row.question and not _mentions(shot, about))

    @override
    def wording(self, point: float) -> str:
        return f"Questions about others, with their answers, before the question: {int(point)}."


def _mentions(shot: QuestionAnswer, names: set[str]) -> bool:
    said = f" {' '.join(content_words(f'{shot.question} {shot.answer}'))} "
    # Without names, entities are numbers, which stand in many texts.
    spelled = (" ".join(content_words(name)) for name in names if not name.isdigit())
    return shot.entity in names or any(f" {name} " in said for name in spelled)
