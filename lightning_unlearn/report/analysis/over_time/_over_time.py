from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis.over_time._depth import unlearning_depth
from lightning_unlearn.report.analysis.over_time._forgotten import forgetting
from lightning_unlearn.report.analysis.over_time._oscillation import oscillation
from lightning_unlearn.report.analysis.over_time._retention import retention_curves
from lightning_unlearn.report.analysis.over_time._series import during_the_fit
from lightning_unlearn.report.analysis.over_time._transfer import transfer


def over_time(
    observations: Sequence[Observation], metric: str, floor: float | None = None, perfect: float = 1.0
) -> dict[str, Any]:
    """All that one run tells over time, as plain values for JSON: nothing but lists, mappings, text and finite numbers.

    Args:
        observations: Of one run.
        metric: What is looked at.
        floor: The level of a model that never knew, if no control was observed.
        perfect: The metric's best value: 1 for a probability, 0 for a loss.

    Returns:
        ``forgetting``: of :func:`forgetting`, where entities can be followed. ``retention``: of
        :func:`retention_curves`. ``transfer``: of :func:`transfer`. ``oscillation``: by split.
        ``unlearning_depth``: with the control, where :class:`KnowledgeDepth` was among the audits.

    Example:
        >>> seen = [Observation("p", "retain", 1.0, subject="original"), Observation("p", "retain", 0.5, step=10)]
        >>> found = over_time(seen, "p", floor=0.0)
        >>> found["retention"][0]["shares"], found["transfer"][0]["forget_ratio"], found["oscillation"]
        ([1.0, 0.5], 0.5, {})
    """
    splits = dict.fromkeys(o.split for o in observations if o.metric == metric and not o.layer)
    sign = next((1 if o.higher_means_known else -1 for o in observations if o.metric == metric), 1)
    swings = {}
    for split in splits:
        series = during_the_fit(observations, metric, split)
        if (found := oscillation(series.times, series.values, sign * perfect)) is not None:
            swings[split] = asdict(found)
    followed = forgetting(observations, metric, floor)
    plain = {
        "forgetting": None if followed is None else asdict(followed),
        "retention": [asdict(curve) for curve in retention_curves(observations, metric, floor)],
        "transfer": [asdict(row) for row in transfer(observations, metric, floor)],
        "oscillation": swings,
        "unlearning_depth": unlearning_depth(observations),
    }
    return {key: _finite(value) for key, value in plain.items()}


def _finite(value: Any) -> Any:
    """The same with ``None`` for what is no finite number: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
