from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.audits.leakage.scores._answer_score import AnswerScore
from lightning_unlearn.functional.words import contains, words


class ContainsAnswer(AnswerScore):
    """Whether a right answer is contained in what was said, word for word, whatever stands around it; 1 or 0.

    Upper and lower case, punctuation and white space do not matter.

    Example:
        >>> ContainsAnswer()("I believe it was oslo.", ["Kristiania", "Oslo"])
        1.0
    """

    in_words: ClassVar[str] = "How often the right answer is contained, word for word, in what the model says."

    @override
    def __call__(self, said: str, right: Sequence[str]) -> float:
        return float(any(contains(said, answer) for answer in right))


class ExactAnswer(AnswerScore):
    """Whether a right answer was given and nothing else was said, but for case and punctuation; 1 or 0.

    Example:
        >>> ExactAnswer()("Oslo.", ["oslo"]), ExactAnswer()("In Oslo.", ["oslo"])
        (1.0, 0.0)
    """

    in_words: ClassVar[str] = "How often the model says the right answer, word for word, and nothing else."

    @override
    def __call__(self, said: str, right: Sequence[str]) -> float:
        return float(any(words(said) == words(answer) and contains(said, answer) for answer in right))
