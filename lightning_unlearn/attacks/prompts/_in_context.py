from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from typing_extensions import override

from lightning_unlearn.attacks.prompts._answer_words import AnswerWords, prompt_of
from lightning_unlearn.attacks.prompts._prompt_attack import PromptAttack
from lightning_unlearn.data import QuestionAnswer, Turn
from lightning_unlearn.functional.settings import check_whole


class InContext(PromptAttack):
    """Other questions and their answers come before the question, as earlier turns of the chat.

    Shots that would give the answer away are passed over. Fewer shots are the first of more. A row for which there are not
    enough is left out at this point.

    Args:
        numbers: How many shots are shown.
    """

    unit = "shots"

    def __init__(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            check_whole("numbers", number)
        if not numbers:
            raise ValueError("`numbers` should hold at least one number of shots. Found none.")
        self.numbers = tuple(sorted(numbers))

    @property
    @override
    def points(self) -> Sequence[int]:
        return self.numbers

    @abstractmethod
    def shots(self, row: QuestionAnswer, rows: Sequence[QuestionAnswer], *, split: str) -> Iterable[QuestionAnswer]:
        """What may be shown before ``row``, in the order of choice."""

    @override
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        return self.reword_all([row], split="", point=point)[0]

    @override
    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        words = AnswerWords(rows)
        return [_shown(row, self.shots(row, rows, split=split), int(point), words) for row in rows]


def _shown(
    row: QuestionAnswer, shots: Iterable[QuestionAnswer], number: int, words: AnswerWords
) -> QuestionAnswer | None:
    """``row`` behind the first shots that are free of its answer, also together; ``None`` if they are too few."""
    chosen: list[QuestionAnswer] = []
    for shot in shots:
        if len(chosen) == number:
            break
        longer = behind(row, [*chosen, shot])
        if not words.told(row, prompt_of(longer)).leak:
            chosen.append(shot)
    return behind(row, chosen) if len(chosen) == number else None


def behind(row: QuestionAnswer, shots: Iterable[QuestionAnswer]) -> QuestionAnswer:
    """``row`` behind ``shots``, which come after its own system prompt and before its own earlier turns."""
    turns = [turn for shot in shots for turn in (Turn("user", shot.question), Turn("assistant", shot.answer))]
    system = next((i for i, turn in enumerate(row.before) if turn.role != "system"), len(row.before))
    return replace(row, before=(*row.before[:system], *turns, *row.before[system:]))
