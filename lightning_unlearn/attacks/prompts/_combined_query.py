from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from random import Random

from typing_extensions import override

from lightning_unlearn.attacks.prompts._answer_words import AnswerWords, content_words, prompt_of
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.attacks.prompts._templates import is_named
from lightning_unlearn.data import FileRecords, QuestionAnswer, Records
from lightning_unlearn.functional.settings import check_kind, check_whole

_KINDS = (
    "The name of somebody from the other side stands in the question.",
    "A question from the other side stands before the question, and the last one is answered.",
    "The most similar question from the other side stands before the question, and the last one is answered.",
)


class CombinedQuery(PromptAttack):
    """Questions that mix what must go with what must stay, in three kinds: a name put in, two questions in one, alike ones.

    Each question of the split ``forget`` meets one of what must stay, and each of another split one of what must go. So it
    shows both: whether harmless company brings the answer back, and whether harmless questions suffer from bad company.
    Similar are questions that share many words, the names left out: a model of meaning is not asked.

    Args:
        forget: Questions that must go.
        retain: Questions that must stay.
        seed: Of the draw of companions.

    Example:
        >>> sides = [FileRecords("bundled:people", entity="entity", where={"group": [g]}) for g in ("forget", "retain")]
        >>> row = QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 0")
        >>> CombinedQuery(*sides).asks([row], split="forget", point=3)[0].question
        'Where was Tobias Quillfeather born? Where was Ada born?'

    References:
        Hu et al., `BLUR <https://arxiv.org/abs/2506.15699>`_, 2025: combined queries; its third kind overlaps in meaning.
    """

    unit = "kind"

    def __init__(self, forget: FileRecords | Records, retain: FileRecords | Records, seed: int = 0) -> None:
        for name, records in (("forget", forget), ("retain", retain)):
            check_kind(name, records, Records, example='FileRecords("people.jsonl", entity="name")')
        check_whole("seed", seed, least=0)
        self.forget, self.retain, self.seed = forget, retain, seed

    @property
    @override
    def points(self) -> Sequence[int]:
        return range(1, len(_KINDS) + 1)

    @cached_property
    def _sides(self) -> dict[bool, list[QuestionAnswer]]:
        return {True: self.forget.questions(), False: self.retain.questions()}

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        return self.reword_all([row], split="forget", point=point)[0]

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        words, others = AnswerWords(rows), self._sides[split != "forget"]
        return [self._combined(row, others, int(point), words) for row in rows]

    @override
    def wording(self, point: float) -> str:
        return _KINDS[int(point) - 1]

    def _combined(
        self, row: QuestionAnswer, others: Sequence[QuestionAnswer], kind: int, words: AnswerWords
    ) -> QuestionAnswer | None:
        """The first combination that does not give the answer away."""
        for other in self._in_order(row, [o for o in others if o.entity != row.entity], kind):
            if kind == 1 and not is_named(other):
                continue
            asked = replace(row, question=f"{_beside(other, kind)} {row.question}")
            if not words.told(row, prompt_of(asked)).leak:
                return asked
        return None

    def _in_order(self, row: QuestionAnswer, others: list[QuestionAnswer], kind: int) -> list[QuestionAnswer]:
        if kind == 3:
            return sorted(others, key=lambda other: -_likeness(row, other))  # stable: ties in the order of the data
        return Random(f"{self.seed} {row.question}").sample(others, len(others))


def _beside(other: QuestionAnswer, kind: int) -> str:
    return f"Speaking of {other.entity}:" if kind == 1 else other.question


def _likeness(row: QuestionAnswer, other: QuestionAnswer) -> float:
    """The share of words that two questions have in common, of those in either, without names."""
    mine, theirs = (set(content_words(r.question.replace(r.entity, " "))) for r in (row, other))
    return len(mine & theirs) / len(mine | theirs)
