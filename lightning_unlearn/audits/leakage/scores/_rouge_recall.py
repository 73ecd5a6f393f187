from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torchmetrics.functional.text import rouge_score
from typing_extensions import override

from lightning_unlearn.audits.leakage.scores._answer_score import AnswerScore
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.functional.words import words


class RougeRecall(AnswerScore):
    r"""ROUGE-L recall: the share of the right answer's words that were said, in the same order, with gaps allowed.

    .. math:: \mathrm{LCS}(\text{said}, \text{right}) / |\text{right}|

    Of several right answers, the one that was said best. Words are those of any script, not only of English; on plain
    English text the numbers are those of ``rouge-score`` without stemming. By ``torchmetrics``; nothing is downloaded.

    Example:
        >>> RougeRecall()("In the port of Oslo", ["the old port of Oslo"])
        0.800000011920929

    References:
        Lin, `ROUGE <https://aclanthology.org/W04-1013>`_, 2004; for forgetting Maini et al., `TOFU
        <https://arxiv.org/abs/2401.06121>`_, 2024, section 2.2.1.
    """

    in_words: ClassVar[str] = "The share of the right answer's words that the model says, in the same order."

    @override
    def __call__(self, said: str, right: Sequence[str]) -> float:
        return max(recall(words(said), words(answer)) for answer in right)


class RougeAtLeast(AnswerScore):
    """Whether :class:`RougeRecall` is at least ``least``; 1 or 0.

    Args:
        least: Above 0, at most 1.

    Example:
        >>> RougeAtLeast(0.5)("In the port of Oslo", ["the old port of Oslo"])
        1.0
    """

    in_words: ClassVar[str] = "How often the model says enough of the right answer's words, in the same order."

    def __init__(self, least: float = 0.5) -> None:
        check_between("least", least, 1e-6, 1)
        self.least = least
        self._recall = RougeRecall()

    @override
    def __call__(self, said: str, right: Sequence[str]) -> float:
        # The recall is a float32: without a margin 2 of 3 words would be less than 2 / 3.
        return float(self._recall(said, right) >= self.least - 1e-6)


def recall(said: Sequence[str], right: Sequence[str]) -> float:
    """The share of ``right`` in the longest common subsequence with ``said``; 0 if ``right`` is empty.

    Example:
        >>> recall(["4", "5", "7"], ["4", "7"])
        1.0
    """
    if not right or not said:
        return 0.0
    # Split already: joined by spaces, and split there again.
    found = rouge_score(
        " ".join(said), " ".join(right), rouge_keys="rougeL", normalizer=lambda text: text, tokenizer=str.split
    )
    return float(found["rougeL_recall"])
