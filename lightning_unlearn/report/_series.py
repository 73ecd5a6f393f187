"""Curves of a report: what is drawn, before it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_unlearn.observation import NOT_ATTACKED, Observation
from lightning_unlearn.report._draw import Curve
from lightning_unlearn.report._gates import MIN_GAP
from lightning_unlearn.report._schema import Recovery
from lightning_unlearn.report._series_of_observations import ObservationSeries
from lightning_unlearn.report._statistics import recovery_rate
from lightning_unlearn.report._words import point_words

if TYPE_CHECKING:
    from lightning_unlearn.report._report import RobustnessReport

STUDENT = "not attacked"
"""What the student's own curve is called."""


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
    """Recovery over the steps of the fit, where enough had been removed by then to speak of recovery."""
    looks, metric = ObservationSeries(report.observations), report.summary["headline_metric"]
    original = looks.find(metric, "forget", step=looks.original_step)
    final = looks.find(metric, "forget", step=looks.unlearned_step)
    if original is None or final is None:
        return {}
    curves: dict[str, Curve] = {}
    for worst in worst_points(report):
        curve = []
        for step, attacked in _curve(report, metric, "forget", worst.attack, worst.point):
            now = looks.find(metric, "forget", step=step)
            if now is not None and _speaks_of_recovery(original, now, final):
                curve.append((step, float(recovery_rate(original.estimate, now.estimate, attacked))))
        curves[label(worst)] = curve
    return curves


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
    """An attack and where it stood."""
    return f"{recovery.attack} ({point_words(recovery)})"


def _curve(report: RobustnessReport, metric: str, split: str, attack: str, point: int | None) -> Curve:
    wanted = (metric, split, attack, False)
    values = {
        observation.step: observation.estimate
        for observation in report.observations
        if (observation.metric, observation.split, observation.attack, observation.subject == "control") == wanted
        and point in (None, observation.point)
    }
    return sorted((step, value) for step, value in values.items() if math.isfinite(value))


def _speaks_of_recovery(original: Observation, now: Observation, final: Observation) -> bool:
    gap, whole = original.estimate - now.estimate, original.estimate - final.estimate
    extent = original.bounds[1] - original.bounds[0] if original.bounds else abs(whole)
    return gap * whole > 0 and abs(gap) >= MIN_GAP * extent


def _with_several_points(attacks: dict[str, list[Recovery]]) -> dict[str, list[Recovery]]:
    return {attack: _sorted(found) for attack, found in attacks.items() if len(found) > 1}


def _sorted(recoveries: Sequence[Recovery]) -> list[Recovery]:
    return sorted(recoveries, key=lambda recovery: recovery.point)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
