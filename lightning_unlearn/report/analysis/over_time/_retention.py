"""How much of what was known is left, over the fit and under attacks; beside the level of a model that never knew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis.over_time._acquisition import (
    Decay,
    Effectivity,
    effectivity,
    log_time_decay,
    retainability,
)
from lightning_unlearn.report.analysis.over_time._series import (
    Series,
    attacks_over_time,
    during_the_fit,
    under_attack,
)
from lightning_unlearn.report.analysis.over_time._transfer import LEAST_KNOWN


@dataclass(frozen=True)
class Retention:
    """A curve of one split.

    Args:
        series: The levels.
        shares: Share of what the original knew beyond the floor, parallel to ``series.times``; empty if there is no floor,
            or the original was not ahead of it by at least ``LEAST_KNOWN``.
        floor: The level of the control, or what was given; ``None`` if neither.
        effectivity: The best gain within fifty steps of the start: what an attack brings back soon. ``None`` if nothing was
            measured there.
        decay: How the level falls in log time. ``None`` with fewer than three points, or if nothing had been known.
    """

    series: Series
    shares: list[float]
    floor: float | None
    effectivity: Effectivity | None
    decay: Decay | None


def retention_curves(observations: Sequence[Observation], metric: str, floor: float | None = None) -> list[Retention]:
    """The curve of each split over the steps of the fit, and over the points of each attack that counts steps.

    Args:
        observations: Of one run.
        metric: Such as ``token_nll``: with log-likelihoods, effectivity is in nats.
        floor: The level of a model that never knew, in units of the metric, if no control was observed.

    Example:
        >>> seen = [Observation("p", "retain", v, step=s, subject="original" if s == 0 else "unlearned")
        ...         for s, v in ((0, 1.0), (1, 0.75), (10, 0.5), (100, 0.25))]
        >>> (curve,) = retention_curves(seen, "p", floor=0.0)
        >>> curve.shares, round(curve.decay.constant, 4)
        ([1.0, 0.75, 0.5, 0.25], 0.1086)
    """
    splits = list(dict.fromkeys(o.split for o in observations if o.metric == metric and not o.layer))
    found = []
    for split in splits:
        start = during_the_fit(observations, metric, split)
        lowest = _floor(observations, metric, split, floor)
        everything = [start, *(under_attack(observations, metric, split, a) for a in attacks_over_time(observations))]
        top = start.values[0] if start.values and start.times[0] == 0 else None
        found += [_retention(series, top, lowest) for series in everything if len(series.times) > 1]
    return found


def _retention(series: Series, top: float | None, floor: float | None) -> Retention:
    known = top is not None and floor is not None and top - floor >= LEAST_KNOWN
    shares = [(value - floor) / (top - floor) for value in series.values] if known else []  # type: ignore[operator]
    peak = series.times[max(range(len(series.values)), key=series.values.__getitem__)]
    top_of_series = max(series.values)
    lasting = floor is not None and top_of_series - floor >= LEAST_KNOWN
    kept = retainability(series.times, series.values, floor, peak) if lasting else []  # type: ignore[arg-type]
    return Retention(series, shares, floor, effectivity(series.times, series.values), log_time_decay(kept))


def _floor(observations: Sequence[Observation], metric: str, split: str, given: float | None) -> float | None:
    of_metric = [o for o in observations if (o.metric, o.split, o.layer) == (metric, split, "")]
    control = [o for o in of_metric if o.subject == "control" and not o.attacked]
    sign = 1.0 if not of_metric or of_metric[0].higher_means_known else -1.0
    level = control[-1].estimate if control else given
    return None if level is None else sign * level
