from __future__ import annotations

import re
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
from lightning_unlearn.functional.words import contains

_LETTERS = "ABCD"
# A single capital letter. "A" alone is picked only before punctuation or at the end: else it is an article.
_PICKED = re.compile(r"\b[BCD]\b|\bA\b(?=[).:,*]|\W*$)")


class MultipleChoice(AnswerStyle):
    """The question with the right answer among those to other questions, as A to D; chance is one in four.

    Right are the words of the right option and of no other; without words, its letter. Wrong options are answers about
    others, and each stands where a hash of its words puts it.

    Example:
        >>> rows = [QuestionAnswer(f"Where was {name} born?", town, entity=name, source="")
        ...         for name, town in [("Ada", "Oslo"), ("Bo", "Lima"), ("Cy", "Rome"), ("Di", "Kyiv")]]
        >>> print(MultipleChoice().ask(rows)[0].row.question)
        Where was Ada born?
        A) Lima
        B) Kyiv
        C) Oslo
        D) Rome
        Answer with the letter of the right option.
    """

    in_words: ClassVar[str] = "How often the model picks the right one of four answers; 0.25 is chance."
    by_chance: ClassVar[float] = 0.25

    @override
    def ask(self, rows: Sequence[QuestionAnswer]) -> list[Asked]:
        return [self._asked(row, wrong_answers(row, rows, len(_LETTERS) - 1)) for row in rows]

    def _asked(self, row: QuestionAnswer, wrong: list[str]) -> Asked:
        if len(wrong) < len(_LETTERS) - 1:
            return Asked(row, None)  # with fewer options, chance would be another
        options = sorted([row.answer, *wrong], key=lambda option: drawn_by(option, row.question))
        shown = "\n".join(f"{letter}) {option}" for letter, option in zip(_LETTERS, options, strict=True))
        right = _LETTERS[options.index(row.answer)]
        question = f"{row.question}\n{shown}\nAnswer with the letter of the right option."
        return Asked(asked_as(row, question, right), partial(_picked, right, options))


def _picked(right: str, options: Sequence[str], said: str) -> bool:
    # Words before letters: a small model that says "A) Oslo" where Oslo is C knows the town, not the list.
    named = [option for option in options if contains(said, option)]
    if len(named) == 1:
        return named == [options[_LETTERS.index(right)]]
    letter = _PICKED.search(said)
    return letter is not None and letter.group() == right
