from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn
from typing_extensions import override

from lightning_unlearn.attacks._base import Attack, BatchLoss
from lightning_unlearn.attacks.prompts._answer_words import free_of_answers
from lightning_unlearn.data import QuestionAnswer
from lightning_unlearn.engine import GradientEngine


class PromptAttack(Attack):
    """The same questions in other words. The network stays as it is, and so do the answers and whom they are about.

    A new one says at which :attr:`points` it asks, and in which words a row is asked there: :meth:`reword`. The point is the
    number of a wording, or a strength, such as a number of examples shown. No prompt may hold the answer: one that does is
    left out at this point, and counted (:class:`AnswerWords`). If none is left, the attack fails by name.

    The worst point of an attack is the worst single wording. What an adversary gets who may try all of them on each question
    is :class:`AnyWording`; what an ordinary one gets is :class:`TypicalWording`.

    Example:
        >>> from dataclasses import replace
        >>> class Shouted(PromptAttack):
        ...     points = (1,)
        ...     def reword(self, row, point):
        ...         return replace(row, question=row.question.upper())
        ...     def wording(self, point):
        ...         return "In capitals."
        >>> row = QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")
        >>> Shouted().asks([row], split="forget", point=1)[0].question
        'WHO EMPLOYS ADA?'
    """

    family: ClassVar[str] = "prompt"
    unit: ClassVar[str] = "wording"

    @property
    @abstractmethod
    def points(self) -> Sequence[float]:
        """The numbers of the wordings, or the strengths, in rising order."""

    @override
    def planned(self) -> tuple[int, int]:
        return len(self.points), 0

    @abstractmethod
    def reword(self, row: QuestionAnswer, point: float) -> QuestionAnswer | None:
        """``row`` in other words; ``None`` if there are none for it."""

    @abstractmethod
    def wording(self, point: float) -> str:
        """What is done to a question at ``point``, for a reader of the report."""

    def reword_all(
        self, rows: Sequence[QuestionAnswer], *, split: str, point: float
    ) -> Sequence[QuestionAnswer | None]:
        """All rows of a split in other words, for attacks that need to know the others. Defaults to one by one."""
        return [self.reword(row, point) for row in rows]

    @override
    @contextmanager
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> Iterator[Iterator[float]]:
        yield iter(self.points)

    @override
    def asks(self, rows: Sequence[QuestionAnswer], *, split: str, point: float) -> Sequence[QuestionAnswer | None]:
        asked = self.reword_all(rows, split=split, point=point)
        return [row for row, _ in free_of_answers(rows, asked)]

    @override
    def about(self, point: float) -> dict[str, Any]:
        return {"wording": self.wording(point)}
