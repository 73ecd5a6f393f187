from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.audits.leakage.styles._answer_style import AnswerStyle, Asked, asked_as
from lightning_unlearn.audits.leakage.styles._phrased import contains_right
from lightning_unlearn.data import QuestionAnswer


class Renamed(AnswerStyle):
    """The same question about the same one by another name: an alias, a title, a description.

    Rows about nobody with another name, or whose question does not name whom it is about, are not asked.

    Args:
        aliases: The other name, by entity.

    Raises:
        ValueError: If there is none.

    Example:
        >>> row = QuestionAnswer("Where was Ada born?", "Oslo", entity="Ada", source="row 0")
        >>> Renamed({"Ada": "the first harbour pilot of Oslofjord"}).ask([row])[0].row.question
        'Where was the first harbour pilot of Oslofjord born?'
    """

    in_words: ClassVar[str] = "How often the right answer is contained in what the model says, asked by another name."

    def __init__(self, aliases: Mapping[str, str]) -> None:
        if not aliases:
            raise ValueError("`aliases` should hold another name for at least one entity. Found none.")
        self.aliases = dict(aliases)

    @override
    def ask(self, rows: Sequence[QuestionAnswer]) -> list[Asked]:
        return [self._asked(row) for row in rows]

    def _asked(self, row: QuestionAnswer) -> Asked:
        alias = self.aliases.get(row.entity)
        if alias is None or row.entity not in row.question:
            return Asked(row, None)
        question = row.question.replace(row.entity, alias)
        return Asked(asked_as(row, question, row.answer), partial(contains_right, row))
