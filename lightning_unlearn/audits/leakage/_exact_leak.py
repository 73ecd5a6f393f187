from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from lightning_unlearn.audits._base import observations_of
from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit
from lightning_unlearn.audits.leakage._checked_numbers import checked_numbers
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.leakage import pass_at_k
from lightning_unlearn.metrics import AnswerLogProbability, KnowledgeMetric
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


class ExactLeak(ScoringAudit):
    r"""The chance that at least one of ``k`` sampled answers is the right one, word for word: exact, and without sampling.

    .. math:: 1 - (1 - p)^k, \quad p = \prod_t p(y_t \mid y_{<t})

    of the right answer and the end of its turn, at temperature 1. It comes from the same forward pass as :class:`Measure`,
    so it is cheap enough for every check of a fit. Observed as ``exact_leak_at_<k>``.

    It is a lower bound of what leaks: a right answer in other words, or any other of several that are accepted, counts for
    nothing here. :class:`SampledLeak` counts these.

    Args:
        k: Numbers of answers.

    Raises:
        ValueError: If ``k`` is empty, or a number in it is not positive or comes twice.

    Example:
        >>> sorted(ExactLeak(k=(1, 100)).definitions())
        ['exact_leak_at_1', 'exact_leak_at_100']

    References:
        `Leak@k <https://arxiv.org/abs/2511.04934>`_, 2025, for leaks among several answers; the closed form is ours.
    """

    def __init__(self, k: Sequence[int] = (1, 128)) -> None:
        self.k = checked_numbers("k", k)
        self._log_p = AnswerLogProbability()

    @override
    def definitions(self) -> dict[str, str]:
        words = "The chance that the right answer, word for word, is among {} that the model gives at random."
        return {_name(k): words.format("1 answer" if k == 1 else f"{k} answers") for k in self.k}

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if not readout.gives_logits:
            raise Misfit(
                f"`ExactLeak` should get probabilities of answers. Found `{readout!r}`, which gives the loss of "
                "`training_step` and nothing else. Leave it out of `audits`, or write a `Readout` of your own, which "
                "gives a `Prediction`."
            )
        return {"log_p": self._log_p}

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        observations: list[Observation] = []
        for split, of_split in scores.items():
            log_p = torch.tensor(of_split["log_p"], dtype=torch.float64)
            for k in self.k:
                leaks = pass_at_k(log_p, k).tolist()
                observations += observations_of(
                    split, probes[split], _name(k), leaks, higher_means_known=True, bounds=(0.0, 1.0)
                )
        return observations


def _name(k: int) -> str:
    return f"exact_leak_at_{k}"
