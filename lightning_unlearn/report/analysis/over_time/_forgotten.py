"""When each entity was forgotten during the fit, and whether it came back while the fit went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis.over_time._transfer import LEAST_KNOWN, _last

HALF = 0.5
"""An entity counts as forgotten where at most this share of what the original knew of it is left."""


@dataclass(frozen=True)
class EntityCurve:
    """What a model knows of one entity, over the looks at a fit.

    Args:
        entity: Its name; of an example without one, its number.
        shares: What is left at each look of what the original knew beyond the floor: from 1 on.
        forgotten_at: Step of the first look at which at most half was left; ``None`` if there was none.
        back_at: Step of the first look after it at which more than half was there again; ``None`` if there was none.
    """

    entity: str
    shares: list[float]
    forgotten_at: float | None
    back_at: float | None


@dataclass(frozen=True)
class Forgetting:
    """The entities of the forget set, over the looks at a fit.

    Args:
        times: Steps of the looks, from the original at 0 on.
        curves: Of entities that the original knew, those that are known best at the end first.
        unknown: Entities of which the original was not ahead of the floor by ``LEAST_KNOWN``: nothing there to forget.
        not_followed: Entities of which not every look has kept a mean.
        forgotten: How many were forgotten at some look.
        came_back: How many of these were known again at a later one.
        at_end: How many are forgotten at the last look.
        median_step: Median step at which they were forgotten; ``None`` unless half of them were.
        floor: Whose level the floor is: ``"control"``, ``"given"``, or ``"lowest"``, the lowest value of the metric.
    """

    times: list[float]
    curves: list[EntityCurve]
    unknown: int
    not_followed: int
    forgotten: int
    came_back: int
    at_end: int
    median_step: float | None
    floor: str


def forgetting(
    observations: Sequence[Observation], metric: str, floor: float | None = None, split: str = "forget"
) -> Forgetting | None:
    r"""When each entity was first forgotten, and when it first came back, while the fit went on.

    .. math:: s_e(t) = \frac{\ell_e(t) - f_e}{\ell_e(0) - f_e}

    with the mean score of the entity, :math:`\ell_e`, and that of a model that never knew, :math:`f_e`: the control's of the
    same entity; without a control ``floor``; without either the lowest value that the metric can have.

    Args:
        observations: Of one run, of which earlier looks have kept a mean for each entity.
        metric: What is looked at.
        floor: The level of a model that never knew, if no control was observed.
        split: Whose entities.

    Returns:
        ``None`` if nobody looked twice after the original, or nothing that was known can be followed.

    Example:
        >>> def look(step, ada, bo):
        ...     return Observation("p", "forget", 0.5, step=step, by_entity={"Ada": ada, "Bo": bo},
        ...                        subject="unlearned" if step else "original")
        >>> found = forgetting([look(0, 1.0, 1.0), look(10, 0.25, 0.75), look(20, 0.75, 0.25)], "p", floor=0.0)
        >>> [(curve.entity, curve.forgotten_at, curve.back_at) for curve in found.curves]
        [('Ada', 10.0, 20.0), ('Bo', 20.0, None)]
    """
    looks = _looks(observations, metric, split)
    if len(looks) < 3 or 0.0 not in looks:
        return None
    floors, source = _floors(looks[0.0], _last(observations, metric, split, "control"), floor)
    sign = 1.0 if looks[0.0].higher_means_known else -1.0
    levels = {time: look.entity_means for time, look in looks.items()}
    followed = [e for e in levels[0.0] if e in floors and all(e in level for level in levels.values())]
    heads = {e: sign * (levels[0.0][e] - floors[e]) for e in followed}
    curves = [
        _curve(e, {time: sign * (level[e] - floors[e]) / heads[e] for time, level in levels.items()})
        for e in followed
        if heads[e] >= LEAST_KNOWN
    ]
    unknown, missed = len(followed) - len(curves), len(levels[0.0]) - len(followed)
    return _counted(list(levels), curves, unknown, missed, source) if curves else None


def _looks(observations: Sequence[Observation], metric: str, split: str) -> dict[float, Observation]:
    """Looks without an attack at which entities were told apart, by step, the original at 0."""
    wanted = [o for o in observations if (o.metric, o.split, o.layer, o.attacked) == (metric, split, "", False)]
    told = [o for o in wanted if o.entity_means and o.interval is None]
    fitting = [o for o in told if o.subject == "original" or (o.subject == "unlearned" and o.step > 0)]
    looks = {0.0 if o.subject == "original" else float(o.step): o for o in fitting}
    return dict(sorted(looks.items()))


def _floors(original: Observation, control: Observation | None, given: float | None) -> tuple[dict[str, float], str]:
    """The floor of each entity, and whose it is."""
    if control is not None and control.entity_means:
        return control.entity_means, "control"
    if given is not None:
        return dict.fromkeys(original.entity_means, given), "given"
    if original.bounds is None:
        return {}, ""
    low, high = original.bounds
    return dict.fromkeys(original.entity_means, low if original.higher_means_known else high), "lowest"


def _curve(entity: str, shares: Mapping[float, float]) -> EntityCurve:
    forgotten = next((time for time, share in shares.items() if share <= HALF), None)
    back = None if forgotten is None else next((t for t, s in shares.items() if t > forgotten and s > HALF), None)
    return EntityCurve(entity, [round(share, 4) for share in shares.values()], forgotten, back)


def _counted(times: list[float], curves: list[EntityCurve], unknown: int, missed: int, floor: str) -> Forgetting:
    steps = [inf if curve.forgotten_at is None else curve.forgotten_at for curve in curves]
    middle = median(steps)
    return Forgetting(
        times=times,
        curves=sorted(curves, key=lambda curve: -curve.shares[-1]),
        unknown=unknown,
        not_followed=missed,
        forgotten=sum(step < inf for step in steps),
        came_back=sum(curve.back_at is not None for curve in curves),
        at_end=sum(curve.shares[-1] <= HALF for curve in curves),
        median_step=middle if middle < inf else None,
        floor=floor,
    )
