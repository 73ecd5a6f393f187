from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit, observations_of
from lightning_unlearn.audits._probe import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.functional.settings import check_named
from lightning_unlearn.metrics import AnswerProbability, KnowledgeMetric, Loss, TokenNLL
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout, refuse_foreign_labels
from lightning_unlearn.runtime import Misfit, eval_without_grad


class Measure(Audit):
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
        self.metrics = metrics
        self._likelihoods: dict[str, KnowledgeMetric] = {"probability": AnswerProbability(), "token_nll": TokenNLL()}
        self._seen: Mapping[str, KnowledgeMetric] = {}
        self._own_loss: dict[str, KnowledgeMetric] = {"loss": Loss()}

    @override
    def definitions(self) -> dict[str, str]:
        # Which of the defaults it is depends on the readout, and is known at the first look.
        metrics = self.metrics or self._seen or {**self._likelihoods, **self._own_loss}
        return {name: metric.in_words for name, metric in metrics.items()}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        observations: list[Observation] = []
        self._seen = metrics = self._chosen(readout)
        for split, probe in probes.items():
            for name, scores in _scores(metrics, network, readout, probe, engine).items():
                kind = metrics[name]
                bounds = kind.bounds if max(kind.bounds) < float("inf") else None
                about = {"higher_means_known": kind.higher_means_known, "bounds": bounds}
                observations += observations_of(split, probe, name, scores.tolist(), **about)
        return observations

    def _chosen(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if self.metrics is None:
            return self._likelihoods if readout.gives_logits else self._own_loss
        for name, metric in self.metrics.items():
            if metric.needs_logits and not readout.gives_logits:
                raise Misfit(
                    f"`{type(metric).__name__}`, measured as `{name}`, should get logits. Found `{readout!r}`, which gives "
                    "the loss of `training_step` and nothing else. Measure `Loss()`, or leave `metrics` out; or write a "
                    "`Readout` of your own, which gives a `Prediction`."
                )
        return self.metrics


def _scores(
    metrics: Mapping[str, KnowledgeMetric], network: nn.Module, readout: Readout, probe: Probe, engine: GradientEngine
) -> dict[str, Tensor]:
    """Score of each example by each metric, ``[n]`` float64 on the CPU, the same on every rank."""
    for metric in metrics.values():
        metric.reset()
        metric.to(next(network.parameters()).device)
    for batch, index, counts in probe.batches:
        with eval_without_grad(network):
            prediction = engine.forward(lambda b: readout(network, b), engine.to_device(batch))
        refuse_foreign_labels(prediction)
        # A batch that does not count belongs to another rank: it is run only to keep sharded networks in step.
        for metric in metrics.values() if counts else ():
            metric.update(prediction, index)
    return {name: _gathered(metric) for name, metric in metrics.items()}


@torch.no_grad()
def _gathered(metric: KnowledgeMetric) -> Tensor:
    # `scores` is not wrapped by torchmetrics as `compute` is: synchronise by hand.
    with metric.sync_context(should_sync=metric._to_sync):
        return metric.scores().cpu()
