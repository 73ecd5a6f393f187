from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout, refuse_foreign_labels
from lightning_unlearn.runtime import eval_without_grad

Scores = Mapping[str, list[Any]]
"""Scores by metric; one for each supervised example of a split, in the order of the data. Numbers; of answers also texts."""


class ScoringAudit(Audit):
    """An audit of the right answers: it needs scores of single examples, and one forward pass per batch gives them all.

    :class:`RecoveryCheck` makes one pass over each split for all audits of this kind together. Whatever can be said from
    scores (a mean, an AUC of two splits, a rate) is said in :meth:`conclude`.
    """

    @abstractmethod
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        """What is scored, by name; ``readout`` tells whether there are logits.

        Raises:
            Misfit: If the readout does not give what a metric needs.
        """

    @abstractmethod
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        """Observations from the scores, by split. The same on every process, since the scores are."""

    def besides(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> Mapping[str, Scores]:
        """Scores that take passes of their own, such as those of generated answers, by split. Defaults to none.

        :meth:`conclude` gets them with the others. Collective.
        """
        return {}

    @override
    def __call__(
        self, network: nn.Module, *, readout: Readout, probes: Mapping[str, Probe], engine: GradientEngine
    ) -> list[Observation]:
        return SharedScores([self], network, readout, probes, engine).conclusion_of(self)


@dataclass
class SharedScores:
    """The scores that several audits need, from one pass over the data, made when the first of them asks.

    A metric that fails takes only its own audit with it. Collective, like every audit.

    Args:
        audits: Those that will ask.
        network: The live network.
        readout: How it is run on a batch.
        probes: The data, by split.
        engine: Calls the network as the strategy needs it called.
    """

    audits: Sequence[ScoringAudit]
    network: nn.Module
    readout: Readout
    probes: Mapping[str, Probe]
    engine: GradientEngine
    # By identity: the hash of a torchmetrics metric changes with its state.
    _scores: dict[str, dict[int, list[float]]] | None = None
    _errors: dict[int, Exception] = field(default_factory=dict)

    def conclusion_of(self, audit: ScoringAudit) -> list[Observation]:
        """What ``audit`` makes of its scores."""
        return audit.conclude(self.scores_of(audit), self.probes)

    def scores_of(self, audit: ScoringAudit) -> dict[str, dict[str, list[Any]]]:
        """The scores of ``audit``, by split."""
        metrics = audit.metrics(self.readout)  # first: a misfit is its own, and is known before any pass
        if self._scores is None:
            self._scores = {split: self._pass(probe) for split, probe in self.probes.items()}
        for metric in metrics.values():
            if id(metric) in self._errors:
                raise self._errors[id(metric)]
        besides = audit.besides(self.network, readout=self.readout, probes=self.probes, engine=self.engine)
        return {
            split: {**{name: of_split[id(metric)] for name, metric in metrics.items()}, **besides.get(split, {})}
            for split, of_split in self._scores.items()
        }

    def _pass(self, probe: Probe) -> dict[int, list[float]]:
        metrics = self._every_metric()
        for metric in metrics:
            metric.reset()
            metric.to(next(self.network.parameters()).device)
        for batch, index, counts in probe.batches:
            with eval_without_grad(self.network):
                prediction = self.engine.forward(lambda b: self.readout(self.network, b), self.engine.to_device(batch))
            refuse_foreign_labels(prediction)
            # A batch that does not count belongs to another rank: it is run only to keep sharded networks in step.
            for metric in metrics if counts else ():
                try:
                    metric.update(prediction, index)
                except Exception as error:
                    self._errors.setdefault(id(metric), error)
            del prediction
        return {id(metric): self._gathered(metric).tolist() for metric in metrics}

    @torch.no_grad()
    def _gathered(self, metric: KnowledgeMetric) -> Tensor:
        # `scores` is not wrapped by torchmetrics as `compute` is: synchronise by hand.
        with metric.sync_context(should_sync=metric._to_sync):
            try:
                return metric.scores().cpu()
            except Exception as error:
                self._errors.setdefault(id(metric), error)
                return torch.empty(0)

    def _every_metric(self) -> list[KnowledgeMetric]:
        found: list[KnowledgeMetric] = []
        for audit in self.audits:
            try:
                found += audit.metrics(self.readout).values()
            except Exception:  # raised again, and then of this audit, when it asks
                continue
        return list({id(metric): metric for metric in found}.values())
