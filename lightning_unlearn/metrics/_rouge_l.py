from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.functional.compat import Compat, check_compat
from lightning_unlearn.functional.rouge import RougeScores, rouge_l, stemmed_words
from lightning_unlearn.metrics._answer_text import AnswerText


class RougeLRecall(AnswerText):
    r"""ROUGE-L recall of answers: the share of the right answer's words that were said in the same order, in [0, 1].

    .. math:: \mathrm{LCS}(\text{said}, \text{right}) / |\text{right}|

    Words of more than three letters are compared as stems, as by ``rouge-score`` with its stemmer, whose numbers these are.
    Nothing is downloaded.

    Args:
        compat: ``"open-unlearning"`` leaves out all letters but a to z and digits, as ``rouge-score`` does. Otherwise words
            of any script count.

    Example:
        >>> metric = RougeLRecall()
        >>> metric.update(["She writes in Oslo"], ["She wrote novels in Oslo"])
        >>> metric.compute()
        tensor(0.6000, dtype=torch.float64)

    References:
        Lin, `ROUGE <https://aclanthology.org/W04-1013>`_, 2004; for forgetting Maini et al., `TOFU
        <https://arxiv.org/abs/2401.06121>`_, 2024, section 2.2.1.
    """

    in_words: ClassVar[str] = "The share of the right answer's words, as stems, that the model says, in the same order."

    def __init__(self, compat: Compat | None = None) -> None:
        super().__init__()
        check_compat(compat)
        self.compat = compat

    @override
    def of_answer(self, said: str, right: str) -> float:
        return self._rouge(said, right).recall

    def _rouge(self, said: str, right: str) -> RougeScores:
        return rouge_l(stemmed_words(said, self.compat), stemmed_words(right, self.compat))


class RougeLF(RougeLRecall):
    """ROUGE-L F of answers: the harmonic mean of recall and precision, in [0, 1]. See :class:`RougeLRecall`.

    Args:
        compat: ``"open-unlearning"`` leaves out all letters but a to z and digits, as ``rouge-score`` does. Otherwise words
            of any script count.

    Example:
        >>> metric = RougeLF()
        >>> metric.update(["Oslo"], ["in Oslo"])
        >>> round(metric.compute().item(), 4)
        0.6667
    """

    in_words: ClassVar[str] = "What the model says has in common with the right answer, in order, as a share of both."

    @override
    def of_answer(self, said: str, right: str) -> float:
        return self._rouge(said, right).f
