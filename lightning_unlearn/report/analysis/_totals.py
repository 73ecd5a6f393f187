"""Scores of examples, summed up by entity: whole entities are what intervals and tests treat as independent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.report.analysis._statistics import Floats


@dataclass(frozen=True)
class Totals:
    """A ratio of two sums over independent entities: a mean, a gap, a recovery, a control-adjusted recovery.

    Args:
        over: What each entity adds to the numerator, ``[m]``.
        under: What it adds to the denominator, ``[m]``: the number of its examples, or its share of the gap.
        divides: Whether the denominator is a gap, which may be 0, and not a number of examples.
    """

    over: Floats
    under: Floats
    divides: bool = False


def totals_by_entity(scores: Floats, entities: Sequence[str]) -> tuple[Floats, Floats]:
    """The sum of each column over the rows of each entity, and the number of its rows.

    Entities come in the order of their names, so equal entities get equal draws, in whatever order their rows come.

    Args:
        scores: One row per example, one column per observation, ``[n, k]``.
        entities: Which entity each row belongs to, ``n`` names.

    Returns:
        Totals ``[m, k]`` and counts ``[m]`` of the ``m`` entities.

    Example:
        >>> totals, counts = totals_by_entity(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"])
        >>> totals.tolist(), counts.tolist()
        ([[2.0], [5.0]], [1.0, 2.0])
    """
    cluster = np.unique(np.asarray(entities), return_inverse=True)[1]
    totals: Floats = np.stack([np.bincount(cluster, weights=column) for column in scores.T], axis=1)
    return totals, np.bincount(cluster).astype(float)


def weighted_totals(
    scores: Floats, entities: Sequence[str], over: Sequence[float], under: Sequence[float] | None
) -> Totals:
    """The totals of weighted columns of scores; without ``under``, of examples.

    Example:
        >>> weighted_totals(np.array([[0.75, 0.25], [0.5, 0.25]]), ["a", "b"], over=[1, -1], under=None).over.tolist()
        [0.5, 0.25]
    """
    totals, counts = totals_by_entity(scores, entities)
    return Totals(totals @ np.asarray(over), counts if under is None else totals @ np.asarray(under), under is not None)
