from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.audits.leakage.styles._answer_style import (
    AnswerStyle,
    Asked,
    asked_as,
    drawn_by,
    wrong_answers,
)
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.functional.words import words

_YES, _NO = ("yes", "true", "correct"), ("no", "false", "incorrect")


class TrueFalse(AnswerStyle):
    """Whether an answer is the right one: for one half of the rows it is, for the other it is one about others.

    Hashes of the questions decide which half. A model that always says yes is right by chance, one time in two.

    Example:
        >>> rows = [QuestionAnswer("Where was Ada born?", "Oslo", entity="Ada", source=""),
        ...         QuestionAnswer("Where was Bo born?", "Lima", entity="Bo", source="")]
        >>> for asked in TrueFalse().ask(rows):
        ...     print(asked.row.question, asked.row.answer)
        Where was Ada born? Is this the right answer: Lima? Answer yes or no. No
        Where was Bo born? Is this the right answer: Lima? Answer yes or no. Yes
    """

    in_words: ClassVar[str] = "How often the model can tell a right answer from a wrong one; 0.5 is chance."
    by_chance: ClassVar[float] = 0.5

    @override
    def ask(self, rows: Sequence[QuestionAnswer]) -> list[Asked]:
        numbers = [drawn_by(row.question, row.answer) for row in rows]
        place = {number: place for place, number in enumerate(sorted(set(numbers)))}
        return [
            self._asked(row, wrong_answers(row, rows, 1), place[number] % 2 == 0)
            for row, number in zip(rows, numbers, strict=True)
        ]

    def _asked(self, row: QuestionAnswer, wrong: list[str], right: bool) -> Asked:
        if not wrong:
            return Asked(row, None)
        shown = row.answer if right else wrong[0]
        question = f"{row.question} Is this the right answer: {shown}? Answer yes or no."
        return Asked(asked_as(row, question, "Yes" if right else "No"), partial(_told, right))


def _told(right: bool, said: str) -> bool:
    verdict = next((word for word in words(said) if word in (*_YES, *_NO)), None)
    return verdict is not None and (verdict in _YES) == right
