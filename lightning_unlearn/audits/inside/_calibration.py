from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error
from typing_extensions import override

from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.calibration import bins_by_cluster, resampled_calibration_errors
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.metrics import KnowledgeMetric
from lightning_unlearn.metrics._by_token import TokenConfidence, TokenExample, TokenHit
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit

_RESAMPLES = 1000


class Calibration(ScoringAudit):
    r"""Does the model still know how often it is right? The expected calibration error, in bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \, \bigl| \operatorname{acc}_b - \operatorname{conf}_b \bigr|

    over supervised tokens (or images), with the confidence of the most probable one. It is about what should have stayed: of
    every split but ``forget``, where there is nothing to be sure of. Unlearning often leaves a model that answers as before
    and no longer knows how sure to be. The error of few tokens is biased upward: compare it with the original's.

    It needs no pass of its own. The interval is over entities.

    Args:
        bins: Number of bins.

    Raises:
        ValueError: When it is run, if the readout gives no logits.

    Example:
        >>> from lightning_unlearn import ClassificationReadout
        >>> from lightning_unlearn.data import load_probe
        >>> from lightning_unlearn.engine import GradientEngine
        >>> network, readout = torch.nn.Linear(3, 2), ClassificationReadout()
        >>> torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)  # doctest: +ELLIPSIS
        (...)
        >>> probes = {"retain": load_probe([(torch.zeros(4, 3), torch.tensor([0, 0, 0, 1]))], readout)}
        >>> found = Calibration()(network, readout=readout, probes=probes, engine=GradientEngine(network))
        >>> [(o.metric, o.value) for o in found]
        [('calibration_error', 0.25)]
    """

    def __init__(self, bins: int = 15) -> None:
        check_whole("bins", bins)
        self.bins = bins
        self._metrics: dict[str, KnowledgeMetric] = {
            "confidence": TokenConfidence(),
            "hit": TokenHit(),
            "example": TokenExample(),
        }

    @override
    def definitions(self) -> dict[str, str]:
        return {
            "calibration_error": f"How far the model's confidence is from how often it is right, averaged over {self.bins} "
            "bins of confidence; 0 is a model that knows what it does not know."
        }

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        if not readout.gives_logits:
            raise Misfit(
                f"`Calibration` should get logits. Found `{readout!r}`, which gives a loss. Leave it out of `audits`; or "
                "write a `Readout` of your own, which gives a `Prediction`."
            )
        return self._metrics

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        found = [
            self._observed(split, probes[split], {name: torch.tensor(each) for name, each in of_split.items()})
            for split, of_split in scores.items()
            if split != "forget" and of_split["hit"]
        ]
        return found

    def _observed(self, split: str, probe: Probe, of: Mapping[str, Tensor]) -> Observation:
        value = float(binary_calibration_error(of["confidence"], of["hit"].long(), n_bins=self.bins, norm="l1"))
        clusters = [probe.clusters[int(number)] for number in of["example"]]
        sums = bins_by_cluster(of["confidence"], of["hit"], clusters, self.bins)
        resampled = resampled_calibration_errors(sums, _RESAMPLES, torch.Generator().manual_seed(0))
        low, high = (float(resampled.quantile(q)) for q in (0.025, 0.975))
        return Observation(
            metric="calibration_error",
            split=split,
            value=value,
            interval=(low, high),
            higher_means_known=False,
            bounds=(0.0, 1.0),
        )
