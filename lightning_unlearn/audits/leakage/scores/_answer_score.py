from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class AnswerScore(ABC):
    """How much of the right answer is in what a network said: a number from 0 to 1.

    Attributes:
        in_words: What it means, for a reader of the report.
        higher_means_known: Whether a higher score means more knowledge.

    Example:
        >>> class FirstWord(AnswerScore):
        ...     in_words = "How often the first word is right."
        ...     def __call__(self, said, right):
        ...         return float(any(said.split()[:1] == answer.split()[:1] for answer in right))
        >>> FirstWord()("Oslo, of course", ["Oslo, in Norway"])
        1.0
    """

    in_words: ClassVar[str] = "A score per answer; see its own documentation."
    higher_means_known: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, said: str, right: Sequence[str]) -> float:
        """Score what was said.

        Args:
            said: The network's answer.
            right: All answers that are right, at least one.
        """

    def __repr__(self) -> str:
        """Name and settings."""
        settings = (f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_")
        return f"{type(self).__name__}({', '.join(settings)})"
