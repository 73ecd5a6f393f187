from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.functional.fluency import ngram_entropy
from lightning_unlearn.functional.words import words
from lightning_unlearn.metrics._answer_text import AnswerText


class Fluency(AnswerText):
    """How little answers repeat pairs and triples of words: 1 if none comes twice, 0 for one word again and again.

    It is :func:`~lightning_unlearn.functional.fluency.ngram_entropy`, and needs no other model. It finds the loops and the
    silence of a network that was damaged. It does not find nonsense in ever new words; ROUGE and probabilities on
    questions that must stay do.

    Example:
        >>> metric = Fluency()
        >>> metric.update(["She lives by the sea", "the the the the", ""])
        >>> [round(score, 4) for score in metric.scores().tolist()]
        [1.0, 0.0, 0.0]

    References:
        As in :func:`~lightning_unlearn.functional.fluency.ngram_entropy`; TOFU and MUSE are judged by a classifier from a
        hub in open-unlearning.
    """

    in_words: ClassVar[str] = (
        "How little the model's own answers repeat pairs and triples of words; 0 is one word again and again."
    )

    @override
    def update(self, said: Sequence[str], right: Sequence[str] = ()) -> None:
        """Add answers, as text. Right ones are not needed."""
        super().update(said, right or [""] * len(said))

    @override
    def of_answer(self, said: str, right: str) -> float:
        return ngram_entropy(words(said))
