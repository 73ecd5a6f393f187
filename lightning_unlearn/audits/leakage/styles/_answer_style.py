from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar

from lightning_unlearn.data import QuestionAnswer


@dataclass(frozen=True)
class Asked:
    """One fact, asked in some style.

    Args:
        row: The question in that style, and what would be right.
        known: Whether what was said shows that the fact is known; ``None`` where it cannot be asked in this style.
    """

    row: QuestionAnswer
    known: Callable[[str], bool] | None


class AnswerStyle(ABC):
    """A style in which the same facts are asked. Forgetting that shows in one style only is superficial.

    Attributes:
        in_words: What its score means, for a reader of the report.
        by_chance: How often a model that knows nothing is right.

    Example:
        >>> row = QuestionAnswer("Where was Ada born?", "Oslo", entity="Ada", source="row 0")
        >>> class Shouted(AnswerStyle):
        ...     def ask(self, rows):
        ...         shouted = [asked_as(row, row.question.upper(), row.answer) for row in rows]
        ...         return [Asked(row, lambda said: "Oslo" in said) for row in shouted]
        >>> Shouted().ask([row])[0].row.question
        'WHERE WAS ADA BORN?'
    """

    in_words: ClassVar[str] = "How often the model says the right answer in another style; see its own documentation."
    by_chance: ClassVar[float] = 0.0

    @abstractmethod
    def ask(self, rows: Sequence[QuestionAnswer]) -> list[Asked]:
        """Ask each of ``rows`` in this style, in the same order."""

    def __repr__(self) -> str:
        """Name and settings."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def asked_as(row: QuestionAnswer, question: str, answer: str) -> QuestionAnswer:
    """The same row with another question and another answer."""
    return QuestionAnswer(question, answer, row.entity, row.source, before=row.before, image=row.image)


def drawn_by(*texts: str) -> int:
    """A number that depends on the texts alone, so that the order of the data and the process decide nothing."""
    return int.from_bytes(blake2b("\0".join(texts).encode(), digest_size=8).digest(), "little")


def wrong_answers(row: QuestionAnswer, rows: Sequence[QuestionAnswer], count: int) -> list[str]:
    """Answers to other rows, about others where there are any, at most ``count``."""
    right = {answer.casefold() for answer in (row.answer, *row.accepted)}
    others = {(other.answer, other.entity != row.entity) for other in rows if other.answer.casefold() not in right}
    elsewhere = {answer for answer, about_others in others if about_others} or {answer for answer, _ in others}
    return sorted(elsewhere, key=lambda answer: drawn_by(row.question, answer))[:count]
