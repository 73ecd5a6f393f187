from __future__ import annotations

from collections.abc import Iterable, Sequence

from typing_extensions import override

from lightning_unlearn.attacks.prompts._in_context import InContext
from lightning_unlearn.data import QuestionAnswer


class OtherFacts(InContext):
    """Other facts about the same entity come before the question: relearning in context, without the fact that is asked.

    They are the other rows of the split about it, in the order of the data. Rows about whom there is nothing else are left
    out.

    Args:
        numbers: How many facts are shown.

    Example:
        >>> rows = [
        ...     QuestionAnswer("Where was Ada born?", "At sea", entity="Ada", source="row 0"),
        ...     QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 1"),
        ... ]
        >>> [turn.content for turn in OtherFacts([1]).asks(rows, split="forget", point=1)[1].before]
        ['Where was Ada born?', 'At sea']

    References:
        Shumailov et al., `UnUnlearning <https://arxiv.org/abs/2407.00106>`_, 2024.
    """

    def __init__(self, numbers: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__(numbers)

    @override
    def shots(self, row: QuestionAnswer, rows: Sequence[QuestionAnswer], *, split: str) -> Iterable[QuestionAnswer]:
        return (other for other in rows if other.entity == row.entity and other.question != row.question)

    @override
    def wording(self, point: float) -> str:
        return f"Other facts about the same entity before the question: {int(point)}."
