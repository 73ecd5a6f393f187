"""Whether the model gives away what was forgotten: membership against the holdout, and against the control."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lightning_unlearn.functional.separation import advantage, privacy_leakage
from lightning_unlearn.observation import BLIND, MEMBERSHIP, Observation
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Gate, Interval, Status
from lightning_unlearn.report.schema._words import level_words, name

CLAIM = "The model does not give away which examples it was to forget"
LEAST = 0.05
"""An AUC that is closer to what is expected says little, however sure it is."""
MOST = 0.25
"""Half way from chance to always: an interval that reaches so far from what is expected shows nothing either way."""


def membership_gates(index: ObservationIndex, bootstrap: Bootstrap) -> list[Gate]:
    """G11: by no score does the forget set look more, or *less*, like training data than it should. None without a score.

    It should look as it does to the control; without one, as the holdout does. A model that shuns what it was to forget
    gives it away as much as one that still knows it, so both are a warning. So are too few examples to tell: an interval
    that reaches :data:`MOST` away from what is expected. No number is blocked.
    """
    rows = membership_rows(index, bootstrap)
    if not rows:
        return []
    flagged = [row for row in rows if row["found"]]
    if not flagged:
        return [Gate("G11", CLAIM, *_not_flagged([_difference(*seen[1:], bootstrap) for seen in _seen(index)]))]
    worst = max(flagged, key=lambda row: abs(row["auc"] - row["expected"]))
    others = f"; so it is by {len(flagged) - 1} more of {len(rows)} scores" if len(flagged) > 1 else ""
    return [Gate("G11", CLAIM, "warning", _in_words(worst) + others)]


def membership_rows(index: ObservationIndex, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """For each score: the AUC of the unlearned model, the control's, and whether the model gives its forget set away.

    PrivLeak is given for comparison with published tables, and only with a control.
    """
    return [_row(*seen, bootstrap) for seen in _seen(index)]


def membership_limits(index: ObservationIndex) -> Iterator[str]:
    """What is wrong with the holdout."""
    blind = next((o for o in reversed(index.observations) if o.metric == BLIND and not o.attacked), None)
    if blind is not None and blind.interval is not None and blind.interval[0] > 0.5:
        yield (
            f"The holdout is told from the forget set without any model (AUC {blind.value:.2f} "
            f"[{blind.interval[0]:.2f}, {blind.interval[1]:.2f}], by tokens and lengths): membership is inflated by "
            "as much. Trust the comparison with a control only."
        )


def _seen(index: ObservationIndex) -> Iterator[tuple[str, Observation, Observation | None]]:
    """Of each score its name, the model and the control."""
    for metric in index.metrics:
        model = index.find(metric, "forget", subject=index.attacked_subject)
        if metric.startswith(MEMBERSHIP) and model is not None:
            yield metric, model, index.find(metric, "forget", subject="control")


def _not_flagged(found: Sequence[Interval]) -> tuple[Status, str]:
    """What is to be said if no score gives the forget set away."""
    if any(each.low is None or each.high is None or not math.isfinite(each.value) for each in found):
        return "warning", "membership has no interval"
    widest = max(found, key=lambda each: _reach(each))
    if _reach(widest) >= MOST:
        return "warning", (
            f"an AUC differs from what is expected by {level_words(widest)}: of so few examples, nobody can tell whether "
            "the forget set looks like training data"
        )
    return "pass", "the forget set looks like training data as often as it should, by each of its scores"


def _reach(found: Interval) -> float:
    return max(abs(end) for end in (found.low, found.high) if end is not None)


def _difference(model: Observation, control: Observation | None, bootstrap: Bootstrap) -> Interval:
    """How far the AUC is from what is expected: from the control's, of the same examples, or from 0.5."""
    if control is not None:
        return bootstrap.gap(model, control)
    level = bootstrap.level(model)
    low, high = (None if end is None else end - 0.5 for end in (level.low, level.high))
    return replace(level, value=level.value - 0.5, low=low, high=high)


def _row(metric: str, model: Observation, control: Observation | None, bootstrap: Bootstrap) -> dict[str, Any]:
    level, difference = bootstrap.level(model), _difference(model, control, bootstrap)
    return {
        "score": metric.removeprefix(MEMBERSHIP),
        "auc": level.value,
        "low": level.low,
        "high": level.high,
        "advantage": advantage(level.value),
        "control": None if control is None else control.value,
        "expected": 0.5 if control is None else control.value,
        "difference": None if control is None else difference.value,
        "privleak": None if control is None else privacy_leakage(level.value, control.value),
        "found": _found(difference),
    }


def _found(difference: Interval) -> str:
    """``"known"``, ``"shunned"``, or nothing if the model gives nothing away."""
    low, high, value = difference.low, difference.high, difference.value
    if low is None or high is None or not math.isfinite(value) or abs(value) < LEAST or low <= 0 <= high:
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
