"""One number for what attacks bring back, to be monitored during a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_unlearn.observation import Observation, Subject

WORST = "recovery/worst"
"""The key under which it is logged."""

LEAST_GAP = 0.05
"""Share of a metric's range that has to be gone before recovery means anything: gate G1 of the report."""


def worst_recovery(observations: Sequence[Observation], step: int) -> float | None:
    r"""The largest share of what unlearning took away that an attack at ``step`` brought back.

    .. math:: \frac{(\text{attacked} - \text{unlearned}) - (\text{attacked control} - \text{control})}
        {\text{original} - \text{unlearned}}

    Over all attacks and their points, on the forget split, by the metric that a report leads with. Without a control the
    second difference is 0: what the attack taught anew counts as recovered. No gate is applied.

    Args:
        observations: Of a run.
        step: Of the look.

    Returns:
        1 as long as too little is gone to speak of: less than :data:`LEAST_GAP` of a bounded metric's range, or nothing.
        NaN if no attack left a number. ``None`` without an attack at this step, or without an original.

    Example:
        >>> seen = [Observation("p", "forget", 0.9, subject="original"), Observation("p", "forget", 0.1, step=7)]
        >>> round(worst_recovery([*seen, Observation("p", "forget", 0.3, step=7, attack="int4")], step=7), 6)
        0.25
    """
    metric = _leading(observations)
    wanted = [o for o in observations if (o.metric, o.split, o.layer) == (metric, "forget", "")]
    attacked = [o for o in wanted if o.step == step and o.attacked and o.subject != "control"]
    if not attacked or _find(wanted, "original") is None:
        return None
    found = [share for o in attacked if math.isfinite(share := _recovery(o, wanted))]
    return max(found, default=math.nan)


def _leading(observations: Sequence[Observation]) -> str:
    """The first metric where more means more knowledge and the range is known; failing that, the first."""
    forget = [o for o in observations if o.split == "forget" and not o.layer and o.metric != "specificity"]
    rising = [o for o in forget if o.higher_means_known]
    return next((o.metric for o in [*(o for o in rising if o.bounds), *rising, *forget]), "")


def _recovery(attacked: Observation, observations: Sequence[Observation]) -> float:
    original = _find(observations, "original")
    unlearned = _find(observations, attacked.subject, attacked.step)
    if original is None or unlearned is None:
        return math.nan
    controls = (_find(observations, "control"), _find(observations, "control", like=attacked))
    taught = [o for o in controls if o is not None]
    before, now, after, *pair = _levels([original, unlearned, attacked, *(taught if len(taught) == 2 else [])])
    sign = 1.0 if attacked.higher_means_known else -1.0
    gap = sign * (before - now)
    least = LEAST_GAP * (attacked.bounds[1] - attacked.bounds[0]) if attacked.bounds else 0.0
    if gap <= 0 or gap < least:
        return 1.0 if math.isfinite(after) else math.nan
    beyond = pair[1] - pair[0] if pair else 0.0
    return sign * (after - now - beyond) / gap


def _find(
    observations: Sequence[Observation], subject: Subject, step: int | None = None, like: Observation | None = None
) -> Observation | None:
    """The last one of a model, without an attack or under that of ``like``."""
    attack, point = ("none", None) if like is None else (like.attack, like.point)
    for o in reversed(observations):
        if (o.subject, o.attack) == (subject, attack) and step in (None, o.step) and point in (None, o.point):
            return o
    return None


def _levels(observations: Sequence[Observation]) -> list[float]:
    """The level of each, over the examples that all have: an attacker's own facts are in no observation under his attack."""
    means = {id(o) for o in observations if o.scores and o.interval is None}
    if not any(o.examples for o in observations if id(o) in means):
        return [o.estimate for o in observations]
    common = set.intersection(*(set(o.numbers) for o in observations if id(o) in means))
    return [(o.at(common) if id(o) in means else o).estimate for o in observations]
