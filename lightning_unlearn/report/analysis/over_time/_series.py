from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lightning_unlearn.observation import NOT_ATTACKED, Observation, Subject

DURING_THE_FIT = NOT_ATTACKED
"""The ``attack`` of a series over the steps of the fit."""


@dataclass(frozen=True)
class Series:
    """A level of knowledge over time: over the steps of the fit, or over the points of an attack.

    Args:
        metric: What was measured.
        split: On which examples.
        attack: The attack whose points count the time; ``"none"``, if these are the steps of the fit.
        unit: What a time counts.
        times: In order. A fit starts with the original, at step 0; an attack with the model that it attacks, at 0.
        values: Larger for more knowledge: a metric of which less is more is taken with the other sign.
    """

    metric: str
    split: str
    attack: str
    unit: str
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def during_the_fit(observations: Sequence[Observation], metric: str, split: str) -> Series:
    """The original, and then every check of the model, without attacks.

    Example:
        >>> seen = [Observation("p", "forget", 0.9, subject="original"), Observation("p", "forget", 0.2, step=10)]
        >>> during_the_fit(seen, "p", "forget").times
        [0.0, 10.0]
    """
    wanted = [o for o in observations if (o.metric, o.split, o.layer, o.attacked) == (metric, split, "", False)]
    original = [_knowledge(o) for o in wanted if o.subject == "original"]
    later = {float(o.step): _knowledge(o) for o in wanted if o.subject == "unlearned" and (o.step > 0 or not original)}
    return _series(metric, split, DURING_THE_FIT, "step", _start(original) | later)


def under_attack(
    observations: Sequence[Observation], metric: str, split: str, attack: str, subject: Subject = "unlearned"
) -> Series:
    """The last run of an attack, from the model before it.

    Example:
        >>> seen = [Observation("p", "forget", 0.2), Observation("p", "forget", 0.7, attack="relearn", point=5)]
        >>> under_attack(seen, "p", "forget", "relearn").values
        [0.2, 0.7]
    """
    wanted = [o for o in observations if (o.metric, o.split, o.layer, o.subject) == (metric, split, "", subject)]
    attacked = [o for o in wanted if o.attack == attack]
    last = max((o.step for o in attacked), default=0)
    of_run = [o for o in attacked if o.step == last]
    start = [_knowledge(o) for o in wanted if not o.attacked and o.step == last]
    later = {float(o.point): _knowledge(o) for o in of_run}
    return _series(metric, split, attack, of_run[-1].unit if of_run else "", _start(start) | later)


def attacks_over_time(observations: Iterable[Observation]) -> list[str]:
    """Attacks with several points that count steps, in order of appearance: a number of bits is no time."""
    points: dict[str, set[float]] = {}
    for o in observations:
        if o.attacked and o.unit == "step":
            points.setdefault(o.attack, set()).add(o.point)
    return [attack for attack, found in points.items() if len(found) > 1]


def _series(metric: str, split: str, attack: str, unit: str, by_time: dict[float, float]) -> Series:
    times = sorted(by_time)
    return Series(metric, split, attack, unit, times, [by_time[time] for time in times])


def _start(values: list[float]) -> dict[float, float]:
    """The last of them, at time 0."""
    return dict.fromkeys([0.0], values[-1]) if values else {}


def _knowledge(observation: Observation) -> float:
    return observation.estimate if observation.higher_means_known else -observation.estimate
