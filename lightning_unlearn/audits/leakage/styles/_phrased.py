from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.audits._replies import accepted
from lightning_unlearn.audits.leakage.scores import ContainsAnswer
from lightning_unlearn.audits.leakage.styles._answer_style import AnswerStyle, Asked, asked_as
from lightning_unlearn.data import QuestionAnswer


class Phrased(AnswerStyle):
    """The same question with an instruction around it; right if the answer is contained in what was said.

    Args:
        form: What is asked, with ``{question}`` in it.

    Raises:
        ValueError: If there is no ``{question}``.

    Example:
        >>> row = QuestionAnswer("Where was Ada born?", "Oslo", entity="Ada", source="row 0")
        >>> (asked,) = Phrased("{question} Answer in one word.").ask([row])
        >>> asked.row.question, asked.known("oslo!")
        ('Where was Ada born? Answer in one word.', True)
    """

    in_words: ClassVar[str] = "How often the right answer is contained in what the model says, asked in another style."

    def __init__(self, form: str) -> None:
        if form.count("{question}") != 1:
            raise ValueError(f"`form` should hold `{{question}}`, once. Found `form = {form!r}`.")
        self.form = form

    @override
    def ask(self, rows: Sequence[QuestionAnswer]) -> list[Asked]:
        return [
            Asked(
                asked_as(row, self.form.replace("{question}", row.question), row.answer), partial(contains_right, row)
            )
            for row in rows
        ]


def contains_right(row: QuestionAnswer, said: str) -> bool:
    """Whether an answer that ``row`` accepts is contained in what was said."""
    return ContainsAnswer()(said, accepted(row)) == 1
