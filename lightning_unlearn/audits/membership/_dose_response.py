from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit
from lightning_unlearn.audits.membership._blind import BlindBaseline, blind_baseline
from lightning_unlearn.audits.membership._comparison import clusters
from lightning_unlearn.audits.membership._logits import refuse_without_logits
from lightning_unlearn.data import Probe
from lightning_unlearn.functional.separation import auc_interval, places
from lightning_unlearn.functional.settings import check_named, check_whole
from lightning_unlearn.functional.trend import isotonic_rise, rank_correlation
from lightning_unlearn.metrics import KnowledgeMetric, TokenNLL
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import Misfit

Array = NDArray[np.float64]
_MEASURES: tuple[tuple[str, Callable[[Array, Array], float], tuple[float, float]], ...] = (
    ("trend", rank_correlation, (-1.0, 1.0)),
    ("rise", isotonic_rise, (0.0, 1.0)),
)


class DoseResponse(ScoringAudit):
    r"""How what is known rises with the number of times that it was repeated in training.

    Entities were inserted 0, 1, 4, 16, ... times, and which of them how often was drawn at random, so that those inserted 0
    times are true non-members of the same kind. For each score, turned so that more means better known, on one split:

    - ``dose_trend_<score>``: Spearman's rank correlation of dose and score, in [-1, 1].
    - ``dose_rise_<score>``: the rise of the best non-decreasing curve (isotonic regression on ranks in [0, 1]) from the
      lowest dose to the highest. It is never negative, and a little above 0 where there is no trend.
    - ``dose_auc_<score>`` on the splits ``<split>_x<dose>``: how often an entity of this dose looks more like training data
      than one of dose 0.

    - ``dose_blind_auc``: how well a classifier that never saw the model tells the highest dose from dose 0. It should be at
      chance, 0.5: otherwise doses were not drawn at random, and the trend may be that of the texts.

    All with 95 % intervals, from whole entities resampled. Before unlearning, a trend shows that the test works. After it,
    what is left of the trend is what was not unlearned; a trend that has turned means that what was seen most is shunned.

    Args:
        counts: Number of repetitions by entity, or the path of a JSON file with such an object.
        split: Name of the probe with these entities.
        scores: By name. Defaults to ``loss``.
        draws: Number of bootstrap resamples.

    Raises:
        Misfit: If there is no such split, an entity has no count, or all have the same.

    Example:
        >>> sorted(DoseResponse({"Ada": 0, "Bo": 16}).definitions())
        ['dose_auc_loss', 'dose_blind_auc', 'dose_rise_loss', 'dose_trend_loss']

    References:
        Wei et al., `Hubble <https://arxiv.org/abs/2510.19811>`_, 2025, for doses drawn at random.
    """

    def __init__(
        self,
        counts: dict[str, int] | str,
        split: str = "doses",
        scores: dict[str, KnowledgeMetric] | None = None,
        draws: int = 1000,
    ) -> None:
        if scores is not None:
            check_named("scores", scores, KnowledgeMetric, example='{"loss": TokenNLL()}')
        check_whole("draws", draws)
        self.counts = json.loads(Path(counts).read_text(encoding="utf-8")) if isinstance(counts, str) else dict(counts)
        for count in self.counts.values():
            check_whole("counts", count, least=0)
        self.split, self.draws = split, draws
        self._blind: dict[str, BlindBaseline | None] = {}
        self.scores: dict[str, KnowledgeMetric] = {"loss": TokenNLL()} if scores is None else scores

    @override
    def definitions(self) -> dict[str, str]:
        words = {
            "dose_blind_auc": "How well a classifier that sees the texts but not the model tells what was repeated most "
            "from what was not trained on. It should be at chance, 0.5."
        }
        for name, metric in self.scores.items():
            by = f"Judged by: {metric.in_words[0].lower()}{metric.in_words[1:]}"
            words |= {
                f"dose_trend_{name}": "Whether what was repeated more often in training is known better: 1 always, 0 no "
                f"connection, below 0 the other way round. {by}",
                f"dose_rise_{name}": "How far what was repeated most is ahead of what was repeated least, among all: 0 not "
                f"at all, 1 by everything. {by}",
                f"dose_auc_{name}": "How often an entity that was repeated this often looks more like training data than "
                f"one that was not trained on: 0.5 is chance. {by}",
            }
        return words

    @override
    def metrics(self, readout: Readout) -> Mapping[str, KnowledgeMetric]:
        refuse_without_logits(self.scores, readout)
        return self.scores

    @override
    def conclude(self, scores: Mapping[str, Scores], probes: Mapping[str, Probe]) -> list[Observation]:
        if self.split not in probes:
            raise Misfit(
                f"`DoseResponse` should get the entities of its doses as a split `{self.split}`. Found "
                f'`{"`, `".join(probes)}`. Give them as `RecoveryCheck(probes={{"{self.split}": ...}})`.'
            )
        found = self._seen_blindly(probes[self.split])
        for name, metric in self.scores.items():
            values = np.asarray(scores[self.split][name], dtype=float)
            if len(values):
                who = clusters(probes[self.split], len(values))
                found += self._of(name, values if metric.higher_means_known else -values, who)
        return found

    def _seen_blindly(self, probe: Probe) -> list[Observation]:
        if probe.exchanges is None or not probe.size:
            return []
        key = probe.content_hash
        if key not in self._blind:
            doses = self._doses(probe.clusters)
            self._blind[key] = blind_baseline(_rows(probe, doses == doses.max()), _rows(probe, doses == 0))
        if (blind := self._blind[key]) is None:
            return []
        return [Observation("dose_blind_auc", self.split, blind.auc, interval=blind.interval, bounds=(0.0, 1.0))]

    def _of(self, name: str, known: Array, who: list[str]) -> list[Observation]:
        doses = self._doses(who)
        found = []
        for metric, of, bounds in _MEASURES:
            value = of(doses, known)
            interval = self._interval(of, doses, known, who)
            found.append(Observation(f"dose_{metric}_{name}", self.split, value, interval=interval, bounds=bounds))
        never = doses == 0
        for dose in np.unique(doses[~never]) if never.any() else ():
            some = doses == dose
            members, others = ([w for w, chosen in zip(who, flags, strict=True) if chosen] for flags in (some, never))
            found.append(
                Observation(
                    f"dose_auc_{name}",
                    f"{self.split}_x{dose:g}",
                    float(places(known[some], known[never]).mean()),
                    interval=auc_interval(known[some], known[never], (members, others), draws=self.draws),
                    bounds=(0.0, 1.0),
                )
            )
        return found

    def _doses(self, who: list[str]) -> Array:
        unknown = [name for name in dict.fromkeys(who) if name not in self.counts]
        if unknown:
            raise Misfit(
                f"`counts` should say how often each entity of `{self.split}` was repeated. Found none for `{unknown[0]}`"
                f"{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}. Name the entities of the data "
                "(`FileRecords(entity=...)`) as in `counts`."
            )
        doses = np.array([self.counts[name] for name in who], dtype=float)
        if len(np.unique(doses)) < 2:
            raise Misfit(f"`counts` should differ between entities. Found {doses[0]:g} for all of `{self.split}`.")
        return doses

    def _interval(
        self, of: Callable[[Array, Array], float], doses: Array, known: Array, who: list[str]
    ) -> tuple[float, float] | None:
        numbers = np.unique(who, return_inverse=True)[1]
        members = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
        if np.isnan(known).any() or len(members) < 5:
            return None
        generator = np.random.default_rng(0)
        values = []
        for _ in range(self.draws):
            rows = np.concatenate([members[k] for k in generator.integers(len(members), size=len(members))])
            values.append(of(doses[rows], known[rows]))
        low, high = np.nanquantile(values, [0.025, 0.975])
        return float(low), float(high)


def _rows(probe: Probe, chosen: NDArray[np.bool_]) -> Probe:
    """Some examples of a probe: what is asked, without batches."""
    exchanges = [exchange for exchange, own in zip(probe.exchanges or (), chosen, strict=True) if own]
    entities = [entity for entity, own in zip(probe.clusters, chosen, strict=True) if own]
    return replace(probe, batches=[], exchanges=exchanges, entities=entities, size=len(exchanges))
