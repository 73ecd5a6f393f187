"""Intervals that are not resampled: given by an audit, exact ones of shares, and sums and ratios of such."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._binary import share_interval
from lightning_unlearn.report.analysis._mover import holds_zero, interval_of_ratio, interval_of_sum
from lightning_unlearn.report.analysis._statistics import Floats
from lightning_unlearn.report.analysis._totals import Totals, totals_by_entity
from lightning_unlearn.report.schema import Interval

GIVEN = "given by the audit"
EXACT = "Clopper-Pearson"
EXACT_OVER_ENTITIES = "Clopper-Pearson, of as many examples as the entities are worth"
EXACT_OVER_ROWS = "Clopper-Pearson over examples, of these entities alone"
COMBINED = "combined from the intervals of its parts, as if they were independent"


def given(observation: Observation) -> Interval:
    """The interval that an audit gave.

    Example:
        >>> given(Observation("auc", "forget", 0.5, interval=(0.25, 0.75))).low
        0.25
    """
    assert observation.interval is not None
    low, high = observation.interval
    entities = len(set(observation.clusters))
    return Interval(observation.value, low, high, examples=len(observation.scores), entities=entities, method=GIVEN)


def is_share(scores: Sequence[float]) -> bool:
    """Whether scores are answers of yes and no.

    Example:
        >>> is_share([0.0, 1.0]), is_share([0.0, 0.5])
        (True, False)
    """
    return bool(scores) and set(scores) <= {0.0, 1.0}


def share_of(observation: Observation, *, least: int) -> Interval:
    """The exact interval of a share.

    Args:
        observation: Its scores are all 0 or 1.
        least: Of how many entities there has to be something to see; of fewer, examples count on their own.

    Example:
        >>> share_of(Observation("refusal", "forget", 0.0, scores=[0.0] * 10), least=5).method
        'Clopper-Pearson'
    """
    clusters = observation.clusters
    entities = len(set(clusters))
    alone = entities == len(clusters)
    units = clusters if alone or entities >= least else list(map(str, range(len(clusters))))
    method = EXACT if alone else EXACT_OVER_ENTITIES if units is clusters else EXACT_OVER_ROWS
    totals, counts = totals_by_entity(np.array([observation.scores], dtype=float).T, units)
    low, high = share_interval(totals[:, 0], counts)
    return Interval(observation.estimate, low, high, examples=len(clusters), entities=entities, method=method)


def is_certain(scores: Floats, totals: Totals) -> bool:
    """Whether answers of yes and no are so much alike that resampling them shows no spread at all.

    Example:
        >>> is_certain(np.array([[1.0, 0.0], [1.0, 0.0]]), Totals(np.ones(2), np.ones(2)))
        True
    """
    ratio = totals.over.sum() / totals.under.sum() if totals.under.sum() else 0.0
    alike = np.allclose(totals.over, ratio * totals.under)
    return bool(alike and is_share(scores.ravel().tolist()))


def from_parts(
    bare: Interval, parts: Sequence[Interval], over: Sequence[float], under: Sequence[float] | None
) -> Interval:
    """The same number with an interval from those of its parts.

    Args:
        bare: The weighted sum of the parts, or the ratio of two.
        parts: With their intervals; if one has none, neither has the number.
        over: The weight of each in the numerator.
        under: Its weight in the denominator; None if there is none.

    Example:
        >>> parts = [Interval(0.75, 0.5, 1.0), Interval(0.25, 0.25, 0.25)]
        >>> from_parts(Interval(0.5), parts, [1, -1], None).low
        0.25
    """
    if any(part.low is None or part.high is None for part in parts):
        return bare
    if under is not None and holds_zero(interval_of_sum(parts, under)):
        return replace(bare, unbounded=True, method=COMBINED)
    low, high = interval_of_sum(parts, over) if under is None else interval_of_ratio(parts, over, under)
    return replace(bare, low=low, high=high, method=COMBINED)
