from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from lightning_unlearn.audits._base import observations_of
from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.settings import check_named
from lightning_unlearn.metrics import AnswerProbability, KnowledgeMetric, Loss, TokenNLL
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit


class Measure(ScoringAudit):
    """Metrics of the right answers, on every split; one forward pass per batch serves them all.

    Args:
        metrics: What is measured, by the name it is logged under. Defaults to ``probability`` and ``token_nll``; where the
            readout gives the user's own loss and no likelihood, to ``loss``.

    Raises:
        ValueError: If there is none, or a name is empty or has a ``/``; if a metric needs logits and the readout has none.

    Example:
        >>> from lightning_unlearn.metrics import ExactMemorization
        >>> sorted(Measure({"memorised": ExactMemorization()}).definitions())
        ['memorised']
    """

    def __init__(self, metrics: dict[str, KnowledgeMetric] | None = None) -> None:
        if metrics is not None:
            check_named("metrics", metrics, KnowledgeMetric, example='{"probability": AnswerProbability()}')
            if not metrics:
                raise ValueError(
                    "`metrics` should hold at least one metric. Found none. Leave it out for the two defaults."
                )
        self.given = metrics
        self._likelihoods: dict[str, KnowledgeMetric] = {"probability": AnswerProbability(), "token_nll": TokenNLL()}
        self._seen: Mapping[str, KnowledgeMetric] = {}
        self._own_loss: dict[str, KnowledgeMetric] = {"loss": Loss()}

    @override
    def definitions(self) -> dict[str, str]:
        # Which of the defaults it is depends on the readout, and is known at the first look.
        metrics = self.given or self._seen or {**self._likelihoods, **self._own_loss}
        return {name: metric.in_words for name, metric in metrics.items()}

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        self._seen = self._chosen(readout)
        return self._seen

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        observations: list[Observation] = []
        for split, of_split in scores.items():
            for name, of_metric in of_split.items():
                kind = self._seen[name]
                about = {"higher_means_known": kind.higher_means_known, "bounds": kind.bounds}
                observations += observations_of(split, probes[split], name, of_metric, **about)
        return observations

    def _chosen(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if self.given is None:
            return self._likelihoods if readout.gives_logits else self._own_loss
        for name, metric in self.given.items():
            if metric.needs_logits and not readout.gives_logits:
                raise Misfit(
                    f"`{type(metric).__name__}`, measured as `{name}`, should get logits. Found `{readout!r}`, which gives "
                    "the loss of `training_step` and nothing else. Measure `Loss()`, or leave `metrics` out; or write a "
                    "`Readout` of your own, which gives a `Prediction`."
                )
        return self.given
