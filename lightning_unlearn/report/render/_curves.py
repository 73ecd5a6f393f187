"""Curves of a report: what is drawn, before it is drawn."""

import math
from collections.abc import Iterator, Sequence

from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.report.analysis import recovery_rate
from lightning_unlearn.report.analysis._gates import MIN_GAP
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Recovery, RobustnessReport
from lightning_unlearn.report.schema._words import point_words

Curve = list[tuple[int, float]]
"""Points of a line, from left to right."""
STUDENT = "not attacked"
"""Name of the curve without an attack."""


def worst_points(report: RobustnessReport) -> list[Recovery]:
    """The worst point of each attack, on the metric the report leads with."""
    metric = report.summary["headline_metric"]
    return [recovery for recovery in report.recoveries if recovery.metric == metric and recovery.worst]


def over_steps(report: RobustnessReport, metric: str, split: str) -> dict[str, Curve]:
    """A metric over the steps of the fit: not attacked, and under each attack at its worst point."""
    curves = {STUDENT: _curve(report, metric, split, NOT_ATTACKED, None)}
    for worst in worst_points(report):
        curves[label(worst)] = _curve(report, metric, split, worst.attack, worst.point)
    return curves


def recovery_over_steps(report: RobustnessReport) -> dict[str, Curve]:
    """Recovery over the steps of the fit, without steps at which too little had been removed for it to mean something."""
    return {label(worst): list(_recovery_curve(report, worst)) for worst in worst_points(report)}


def _recovery_curve(report: RobustnessReport, worst: Recovery) -> Iterator[tuple[int, float]]:
    index, metric = ObservationIndex(report.observations), worst.metric
    original = index.find(metric, "forget", subject="original")
    final = index.find(metric, "forget", subject="unlearned")
    for step in dict.fromkeys(o.step for o in report.observations if o.subject == "unlearned"):
        now = index.find(metric, "forget", subject="unlearned", step=step)
        attacked = index.find(metric, "forget", subject="unlearned", step=step, attack=worst.attack, point=worst.point)
        if original and final and now and attacked and _speaks_of_recovery(original, now, final):
            rate = float(recovery_rate(original.estimate, now.estimate, attacked.estimate))
            if math.isfinite(rate):
                yield step, rate


def over_points(report: RobustnessReport) -> dict[str, dict[str, list[Recovery]]]:
    """Recovery against the strength of an attack, by unit, then by attack; attacks with one point draw no curve."""
    metric = report.summary["headline_metric"]
    units: dict[str, dict[str, list[Recovery]]] = {}
    for recovery in report.recoveries:
        if recovery.metric == metric and math.isfinite(recovery.shown.value):
            units.setdefault(recovery.unit, {}).setdefault(recovery.attack, []).append(recovery)
    several = {unit: _with_several_points(attacks) for unit, attacks in units.items()}
    return {unit: attacks for unit, attacks in several.items() if attacks}


def training(report: RobustnessReport, columns: Sequence[str]) -> dict[str, Curve]:
    """Columns of the training curve that have more than one number."""
    curves = {}
    for column in columns:
        rows = [row for row in report.training if "step" in row and _is_number(row.get(column))]
        if len(rows) > 1:
            curves[column] = [(row["step"], row[column]) for row in rows]
    return curves


def label(recovery: Recovery) -> str:
    """An attack and its point."""
    return f"{recovery.attack} ({point_words(recovery)})"


def _curve(report: RobustnessReport, metric: str, split: str, attack: str, point: float | None) -> Curve:
    wanted = (metric, split, attack)
    # Original and unlearned are kept apart: after a one-shot edit both were observed at step 0.
    values = {
        (o.step, o.subject): o.estimate
        for o in report.observations
        if (o.metric, o.split, o.attack) == wanted and o.subject != "control" and point in (None, o.point)
    }
    return [(step, value) for (step, _), value in sorted(values.items()) if math.isfinite(value)]


def _speaks_of_recovery(original: Observation, now: Observation, final: Observation) -> bool:
    gap, whole = original.estimate - now.estimate, original.estimate - final.estimate
    # As in gate G1: a ratio over a tiny gap, or one of the other sign, is noise. Unbounded metrics have no range, so the
    # final gap stands for it.
    extent = original.bounds[1] - original.bounds[0] if original.bounds else abs(whole)
    return gap * whole > 0 and abs(gap) >= MIN_GAP * extent


def _with_several_points(attacks: dict[str, list[Recovery]]) -> dict[str, list[Recovery]]:
    by_point = {a: sorted(recoveries, key=lambda recovery: recovery.point) for a, recoveries in attacks.items()}
    return {attack: recoveries for attack, recoveries in by_point.items() if len(recoveries) > 1}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
