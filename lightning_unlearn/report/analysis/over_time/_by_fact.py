from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Observation, Subject
from lightning_unlearn.report.analysis.over_time._acquisition import WINDOW, effectivity, without_outliers


@dataclass(frozen=True)
class FactsGained:
    """What an attack gains of single facts.

    Args:
        gains: Largest gain of each example within the window, by its number; of those that gained anything.
        entities: Of these examples, parallel to ``gains``; empty if none are named.
        mean: Mean gain without outliers; ``None`` if nothing was gained.
        dropped: Examples that gained nothing.
    """

    gains: dict[int, float]
    entities: list[str]
    mean: float | None
    dropped: int


def facts_gained(
    observations: Sequence[Observation],
    metric: str,
    attack: str,
    *,
    split: str = "forget",
    subject: Subject = "unlearned",
    window: float = WINDOW,
    outliers: float = 1.5,
) -> FactsGained:
    """The effectivity of an attack on each fact, over the points of its last run, whose scores are kept.

    Args:
        observations: Of one run.
        metric: With log-likelihoods, such as ``token_nll``, gains are in nats per token.
        attack: Its name.
        split: Whose facts.
        subject: Of the control, gains are what the attack teaches.
        window: As in :func:`effectivity`.
        outliers: As in :func:`without_outliers`.

    Example:
        >>> seen = [Observation("p", "forget", 0.1, scores=[0.1, 0.1]),
        ...         Observation("p", "forget", 0.5, scores=[0.9, 0.1], attack="relearn", point=5)]
        >>> facts_gained(seen, "p", "relearn")
        FactsGained(gains={0: 0.8}, entities=[], mean=0.8, dropped=1)
    """
    wanted = [o for o in observations if (o.metric, o.split, o.layer, o.subject) == (metric, split, "", subject)]
    attacked = [o for o in wanted if o.attack == attack and o.scores]
    last = max((o.step for o in attacked), default=0)
    of_run = [o for o in wanted if o.step == last and o.scores and (o.attack == attack or not o.attacked)]
    levels: dict[int, dict[float, float]] = {}
    named: dict[int, str] = {}
    for o in of_run:
        sign = 1.0 if o.higher_means_known else -1.0
        for number, score, entity in zip(o.numbers, o.scores, o.clusters, strict=True):
            levels.setdefault(number, {})[float(o.point) if o.attacked else 0.0] = sign * score
            named[number] = entity if o.entities else ""
    gains = {number: _gain(by_point, window) for number, by_point in levels.items()}
    gained = {number: gain for number, gain in gains.items() if gain > 0}
    typical = without_outliers(list(gained.values()), outliers)
    mean = sum(typical) / len(typical) if typical else None
    entities = [named[number] for number in gained if named[number]]
    return FactsGained(gained, entities, mean, len(gains) - len(gained))


def _gain(by_point: dict[float, float], window: float) -> float:
    points = sorted(by_point)
    found = effectivity(points, [by_point[point] for point in points], window=window)
    return found.gain if found is not None else 0.0
