from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from typing_extensions import override

from lightning_unlearn.audits import Audit, Generation, Measure
from lightning_unlearn.audits.leakage.scores import RougeRecall
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import AnswerProbability, ExactMemorization
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout


class FITScore(Audit):
    r"""FIT's one number for what is known of an answer: how likely it is, how much of it is said, and token by token.

    .. math:: 100 \, (\mathrm{Prob} \cdot \mathrm{ROUGE\text{-}L} \cdot \mathrm{TokenAcc})^{1/3}

    of the mean answer probability, the mean ROUGE-L recall of greedy answers, and the mean share of tokens that are the
    first choice, each over a split. One pass and one generation per row.

    Args:
        tokenizer: As in :class:`Generation`.
        max_new_tokens: Longer answers are cut off there.

    Example:
        >>> list(FITScore("bundled").definitions())
        ['fit_score']

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026.
    """

    def __init__(self, tokenizer: str, max_new_tokens: int = 64) -> None:
        self._given = Measure({"probability": AnswerProbability(), "tokens": ExactMemorization()})
        self._said = Generation(tokenizer, {"rouge_l": RougeRecall()}, max_new_tokens=max_new_tokens)
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "fit_score": "FIT's score: the geometric mean of answer probability, ROUGE-L of what was said and the share of "
            "tokens that are the first choice, from 0 to 100."
        }

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        levels: dict[str, list[float]] = {}
        for audit in (self._given, self._said):
            for seen in audit(network, readout=readout, probes=probes, engine=engine):
                levels.setdefault(seen.split, []).append(seen.value)
        return [
            Observation("fit_score", split, fit_score(*three), bounds=(0.0, 100.0))
            for split, three in levels.items()
            if len(three) == 3
        ]


def fit_score(probability: float, rouge: float, tokens: float) -> float:
    """Of three shares.

    Example:
        >>> fit_score(0.5, 0.5, 0.5), fit_score(1.0, 0.0, 1.0)
        (50.0, 0.0)
    """
    return float(round(100 * (probability * rouge * tokens) ** (1 / 3), 9))
