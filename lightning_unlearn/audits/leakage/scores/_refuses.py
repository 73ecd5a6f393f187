from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.audits.leakage.scores._answer_score import AnswerScore
from lightning_unlearn.metrics import RefusalRate


class Refuses(AnswerScore):
    """Whether what was said is a refusal, or nothing; 1 or 0. On harmless questions the mean is the SARR.

    Args:
        judge: What counts as a refusal. Defaults to ``RefusalRate()``.

    Example:
        >>> Refuses()("I'm not sure about that.", ["Oslo"])
        1.0
    """

    in_words: ClassVar[str] = RefusalRate.in_words
    higher_means_known: ClassVar[bool] = False

    def __init__(self, judge: RefusalRate | None = None) -> None:
        self.judge = RefusalRate() if judge is None else judge

    @override
    def __call__(self, said: str, right: Sequence[str]) -> float:
        return float(self.judge.is_refusal(said))
