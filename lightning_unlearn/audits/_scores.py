"""Scores of examples that were shared out among processes."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.data import Probe
from lightning_unlearn.observation import Observation
from lightning_unlearn.runtime import on_every_rank


def in_data_order(scores: Mapping[int, float]) -> list[float]:
    """The scores of all processes, in the order of the examples' numbers. Every process must call it, also without scores.

    Example:
        >>> in_data_order({3: 0.5, 1: 1.0})
        [1.0, 0.5]
    """
    by_number = {index: score for share in on_every_rank(dict(scores)) for index, score in share.items()}
    return [by_number[index] for index in sorted(by_number)]


def observed(
    split: str,
    probe: Probe,
    metric: str,
    scores: Mapping[int, float],
    *,
    texts: Mapping[int, str] | None = None,
    higher_means_known: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> list[Observation]:
    """One observation of scores by the number of their example; none at all if there are no scores.

    Args:
        split: Name of the probe.
        probe: What was asked.
        metric: Name of the metric.
        scores: Of the examples that were scored.
        texts: What was said, by the number of the example; may hold more examples than were scored.
        higher_means_known: Whether a higher score means that more is known.
        bounds: Smallest and largest possible score.
    """
    if not scores:
        return []
    numbers = sorted(scores)
    values = [scores[number] for number in numbers]
    return [
        Observation(
            metric=metric,
            split=split,
            value=sum(values) / len(values),
            scores=values,
            entities=[probe.entities[number] for number in numbers] if len(probe.entities) == probe.size else [],
            examples=[] if len(numbers) == probe.size else numbers,
            texts=[] if texts is None else [texts[number] for number in numbers],
            higher_means_known=higher_means_known,
            bounds=bounds,
        )
    ]
