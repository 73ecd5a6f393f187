"""Several runs of one recipe, which differ by their seeds, as one result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.report.analysis._bootstrap import MIN_ENTITIES
from lightning_unlearn.report.analysis._case import Case
from lightning_unlearn.report.analysis._cases import Cases
from lightning_unlearn.report.analysis._curves import curve_of
from lightning_unlearn.report.analysis._effort import Steps, median_steps, steps_to_recover
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._statistics import Floats
from lightning_unlearn.report.analysis._studentised import studentised_interval
from lightning_unlearn.report.analysis._two_way import two_way_interval
from lightning_unlearn.report.schema import Interval, Recovery, RobustnessReport

OVER_SEEDS = "studentised over entities, Student's t over seeds"


@dataclass(frozen=True)
class AcrossSeeds:
    """What one attack, at one point, brought back in several runs.

    Args:
        attack: Label of the attack.
        point: Its strength.
        unit: What a point counts.
        metric: The metric.
        recovery: Over all runs, beyond the control where every run has one; its interval is over seeds and entities.
        runs: The recovery in each.
        verdicts: In how many runs it passes its gates.
    """

    attack: str
    point: float
    unit: str
    metric: str
    recovery: Interval
    runs: list[float]
    verdicts: int


def across_seeds(reports: Sequence[RobustnessReport], *, draws: int = 2000, seed: int = 0) -> list[AcrossSeeds]:
    """The recoveries that all runs have in common, each with an interval over seeds and entities.

    A single run's interval covers the choice of examples alone. Runs of several seeds show how much training varies, too:
    see :func:`two_way_interval`. Runs have to be judged on the same entities; otherwise, and where there are fewer than two
    runs or five entities, there is no interval.

    Args:
        reports: One for each seed, of the same attacks on the same data.
        draws: Number of resamples.
        seed: Of the resamples.

    Raises:
        ValueError: Without a report.
    """
    if not reports:
        raise ValueError("`reports` should hold one report or more, one for each seed. Found none.")
    rows = []
    for recovery in reports[0].recoveries:
        same = [_same(report, recovery) for report in reports]
        if all(other is not None for other in same):
            found = [other for other in same if other is not None]
            cases = [_case(report, recovery) for report in reports]
            rows.append(_row(found, cases, draws, seed))
    return rows


def median_steps_across(reports: Sequence[RobustnessReport], attack: str, *, wanted: float = 0.5) -> Steps | None:
    """The Kaplan-Meier median, over runs, of the steps in which ``attack`` recovers ``wanted``; None if it counts no steps.

    Args:
        reports: One for each seed.
        attack: Its label.
        wanted: The share to recover.
    """
    found = []
    for report in reports:
        metric = report.summary["headline_metric"]
        points, shares = curve_of([r for r in report.recoveries if (r.attack, r.metric) == (attack, metric)])
        if points:
            found.append(steps_to_recover(points, shares, wanted))
    return median_steps(found)


def _same(report: RobustnessReport, recovery: Recovery) -> Recovery | None:
    wanted = (recovery.metric, recovery.attack, recovery.point)
    return next((r for r in report.recoveries if (r.metric, r.attack, r.point) == wanted), None)


def _case(report: RobustnessReport, recovery: Recovery) -> Case:
    index = ObservationIndex(report.observations, report.failures)
    return Cases(index).at(recovery.metric, recovery.attack, recovery.point)


def _row(found: Sequence[Recovery], cases: Sequence[Case], draws: int, seed: int) -> AcrossSeeds:
    # Raw and control-adjusted numbers are never averaged: one run without a control makes all of them raw.
    controlled = all(recovery.adjusted is not None for recovery in found)
    runs = [recovery.shown.value if controlled else recovery.rho.value for recovery in found]
    interval = _interval([case if controlled else case.raw for case in cases], runs, draws, seed)
    first, verdicts = found[0], sum(recovery.is_verdict for recovery in found)
    return AcrossSeeds(first.attack, first.point, first.unit, first.metric, interval, runs, verdicts)


def _interval(cases: Sequence[Case], runs: Sequence[float], draws: int, seed: int) -> Interval:
    totals = [case.totals() for case in cases]
    bare = Interval(float(np.mean(runs)), entities=len(totals[0]))
    if len(cases) < 2 or len(totals[0]) < MIN_ENTITIES or any(t.keys() != totals[0].keys() for t in totals):
        return bare
    over, under = np.array([[t[name] for name in totals[0]] for t in totals]).transpose(2, 0, 1)
    value = float(over.sum() / under.sum())
    if _may_vanish(under, draws, seed):
        return Interval(value, unbounded=True, entities=len(totals[0]), method=OVER_SEEDS)
    low, high = two_way_interval(over, under, draws=draws, seed=seed)
    return Interval(value, low, high, entities=len(totals[0]), method=OVER_SEEDS)


def _may_vanish(gaps: Floats, draws: int, seed: int) -> bool:
    low, high = studentised_interval(gaps.sum(0), np.ones(gaps.shape[1]), draws=draws, seed=seed)
    return bool(low <= 0 <= high)
