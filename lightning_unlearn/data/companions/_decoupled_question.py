from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from typing_extensions import override

from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.records import FileRecords, QuestionAnswer, Record, Records


class DecoupledQuestion(Companion):
    """The same question about somebody else, and its answer: for :class:`PromptDecouple`.

    Two questions count as the same if they differ only in the names of their entities. So both the rows that must go and
    ``records`` need ``entity``: the field with the name that stands in each question. The answers are those of the data;
    to hold a model to its earlier answers, give records with those.

    Args:
        records: Questions about others, whose answers must stay.

    Raises:
        ValueError: If ``records`` do not say in which field the name is.

    Example:
        >>> others = FileRecords("bundled:people", entity="entity", where={"group": ["retain"]})
        >>> row = QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 0")
        >>> DecoupledQuestion(others).candidates(Record({}, 0, "row 0"), row)[0].question
        'Where was Tobias Quillfeather born?'

    References:
        Chen et al., `SafeEraser <https://arxiv.org/abs/2502.12520>`_, 2025, which decouples a text from its image.
    """

    advice = (
        "Keep more `records`, take fewer `draws`, and see that the rows that must go name, as `entity`, the field with the "
        "name that stands in their question."
    )

    def __init__(self, records: FileRecords | Records) -> None:
        if not isinstance(records.entity, str):
            raise ValueError(
                "`records` of `DecoupledQuestion` should say which field holds the name that stands in each question. Found "
                f"`entity = {records.entity}`. Use `entity='entity'`, with the name of that field."
            )
        self.records = records

    @override
    def candidates(self, record: Record, row: QuestionAnswer) -> Sequence[QuestionAnswer]:
        return [other for other in self._by_form.get(_form(row), []) if other.entity != row.entity]

    @cached_property
    def _by_form(self) -> dict[str, list[QuestionAnswer]]:
        by_form: dict[str, list[QuestionAnswer]] = {}
        for other in self.records.questions():
            by_form.setdefault(_form(other), []).append(other)
        return by_form


def _form(row: QuestionAnswer) -> str:
    """The question with ``...`` instead of the name: equal for two questions about different people."""
    return row.question.replace(row.entity, "...")
