"""Whether the model gives away what was forgotten: membership against the holdout, and against the control."""

import math
from collections.abc import Iterator
from typing import Any

from lightning_unlearn.functional.separation import advantage, privacy_leakage
from lightning_unlearn.observation import BLIND, MEMBERSHIP, Observation
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Gate, Interval
from lightning_unlearn.report.schema._words import name

CLAIM = "The model does not give away which examples it was to forget"
LEAST = 0.05
"""An AUC that is closer to what is expected says little, however sure it is."""


def membership_gates(index: ObservationIndex, bootstrap: Bootstrap) -> list[Gate]:
    """G11: by no score does the forget set look more, or *less*, like training data than it should. None without a score.

    It should look as it does to the control; without one, as the holdout does. A model that shuns what it was to forget
    gives it away as much as one that still knows it, so both are a warning. No number is blocked.
    """
    rows = membership_rows(index, bootstrap)
    if not rows:
        return []
    flagged = [row for row in rows if row["found"]]
    if not flagged:
        sure = all(row["low"] is not None for row in rows)
        said = "the forget set looks like training data as often as it should, by each of its scores"
        return [Gate("G11", CLAIM, "pass" if sure else "warning", said if sure else "membership has no interval")]
    worst = max(flagged, key=lambda row: abs(row["auc"] - row["expected"]))
    others = f"; so it is by {len(flagged) - 1} more of {len(rows)} scores" if len(flagged) > 1 else ""
    return [Gate("G11", CLAIM, "warning", _in_words(worst) + others)]


def membership_rows(index: ObservationIndex, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """For each score: the AUC of the unlearned model, the control's, and whether the model gives its forget set away.

    PrivLeak is given for comparison with published tables, and only with a control.
    """
    metrics = [metric for metric in index.metrics if metric.startswith(MEMBERSHIP)]
    rows = []
    for metric in metrics:
        model = index.find(metric, "forget", subject=index.attacked_subject)
        if model is not None:
            rows.append(_row(metric, model, index.find(metric, "forget", subject="control"), bootstrap))
    return rows


def membership_limits(index: ObservationIndex) -> Iterator[str]:
    """What is wrong with the holdout."""
    blind = next((o for o in reversed(index.observations) if o.metric == BLIND and not o.attacked), None)
    if blind is not None and blind.interval is not None and blind.interval[0] > 0.5:
        yield (
            f"The holdout is told from the forget set without any model (AUC {blind.value:.2f} "
            f"[{blind.interval[0]:.2f}, {blind.interval[1]:.2f}], by tokens and lengths): membership is inflated by "
            "as much. Trust the comparison with a control only."
        )


def _row(metric: str, model: Observation, control: Observation | None, bootstrap: Bootstrap) -> dict[str, Any]:
    level = bootstrap.level(model)
    # Paired: the control scores the same examples, of both sets.
    distance = None if control is None else bootstrap.gap(model, control)
    return {
        "score": metric.removeprefix(MEMBERSHIP),
        "auc": level.value,
        "low": level.low,
        "high": level.high,
        "advantage": advantage(level.value),
        "control": None if control is None else control.value,
        "expected": 0.5 if control is None else control.value,
        "difference": None if distance is None else distance.value,
        "privleak": None if control is None else privacy_leakage(level.value, control.value),
        "found": _found(level, distance),
    }


def _found(level: Interval, distance: Interval | None) -> str:
    """``"known"``, ``"shunned"``, or nothing if the model gives nothing away."""
    low, high = (level.low, level.high) if distance is None else (distance.low, distance.high)
    zero = 0.5 if distance is None else 0.0
    value = (level.value if distance is None else distance.value) - zero
    if low is None or high is None or not math.isfinite(value) or abs(value) < LEAST or low <= zero <= high:
        return ""
    return "known" if value > 0 else "shunned"


def _in_words(row: dict[str, Any]) -> str:
    how = {"known": "still known", "shunned": "shunned, which gives it away as much as if it were known"}[row["found"]]
    than = "examples that nobody was trained on"
    expected = "0.5 is expected" if row["control"] is None else f"{row['control']:.2f} for the control"
    return (
        f"the forget set is {how}: by {name(row['score'])} it looks more like training data than {than} in "
        f"{row['auc']:.2f} of all comparisons; {expected}"
    )
