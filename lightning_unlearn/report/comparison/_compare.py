from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_unlearn.observation import Subject, strength
from lightning_unlearn.report.analysis import AcrossSeeds, across_seeds
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._utility import kept_share
from lightning_unlearn.report.analysis._worst import strongest
from lightning_unlearn.report.analysis.over_time import Bracket
from lightning_unlearn.report.analysis.over_time import brackets as brackets_of
from lightning_unlearn.report.comparison._same import lead, same_data
from lightning_unlearn.report.schema import Interval, Recovery, RobustnessReport

Place = tuple[str, float]


@dataclass(frozen=True)
class Compared:
    """One report in a comparison.

    Args:
        name: Of the report.
        forgotten: The leading metric on the forget set, not attacked.
        kept: Utility on the retain set over the original's (of a loss, its likelihood); None if one was not measured.
        worst: The largest recovery by an adversary's attack that all reports have; None if no number is a verdict.
        worst_attack: Which attack, at which point.
        deployed: The same of deployments.
        deployed_attack: Which deployment, at which point.
        on_front: Whether no other report keeps at least as much and gives back at most as much, and is better in one.
    """

    name: str
    forgotten: Interval | None
    kept: float | None
    worst: Interval | None
    worst_attack: str
    deployed: Interval | None
    deployed_attack: str
    on_front: bool = False


@dataclass(frozen=True)
class Comparison:
    """Reports of the same questions, compared by the attacks that all of them have.

    Args:
        metric: What knowledge is measured by.
        attacks: The attacks and points in common.
        rows: The reports, least recovery first.
        warnings: What makes the comparison unfair, or less than the reports themselves say.
        seeds: By recipe, what each attack brought back over its runs; see :func:`across_seeds`.
        brackets: By report, where each split stands between the given points of reference; see :func:`brackets`.
    """

    metric: str
    attacks: list[Place]
    rows: list[Compared]
    warnings: list[str]
    seeds: dict[str, list[AcrossSeeds]] = field(default_factory=dict)
    brackets: dict[str, list[Bracket]] = field(default_factory=dict)


def compare(
    reports: Mapping[str, RobustnessReport],
    *,
    recipes: Mapping[str, Sequence[str]] | None = None,
    brackets: Mapping[str, RobustnessReport] | None = None,
) -> Comparison:
    """Compare reports on the same questions.

    The worst case of each is taken over the attacks, with equal settings, and the points that all reports have, and none
    of which failed anywhere: who was attacked less would else look better.

    Args:
        reports: By the name in the table.
        recipes: Which reports are runs of one recipe that differ by their seeds.
        brackets: Reports of models that were trained in another way, as points of reference: ``specialised``, ``joint`` and
            ``sequential``, or others. They are not in the table.

    Raises:
        ValueError: If there are fewer than two, or they lead with different metrics, or are of other questions.
    """
    if len(reports) < 2:
        raise ValueError(f"At least two reports should be compared. Found {len(reports)}.")
    metric = lead(reports)
    same_data({**reports, **(brackets or {})})
    settings = {name: _attacks(report, metric) for name, report in reports.items()}
    first = next(iter(settings.values()))
    broken = {name: _failed(report) for name, report in reports.items()}
    common = [
        place
        for place, words in first.items()
        if all(each.get(place) == words for each in settings.values())
        and not any(place[0] in failed for failed in broken.values())
    ]
    rows = [_row(name, report, metric, common) for name, report in reports.items()]
    rows = [replace(row, on_front=_shown(row) and not any(_beats(other, row) for other in rows)) for row in rows]
    rows.sort(key=lambda row: math.inf if row.worst is None else row.worst.value)
    warnings = list(_warnings(reports, settings, broken, common))
    seeds = {
        name: _over_seeds([reports[run] for run in runs], metric, common) for name, runs in (recipes or {}).items()
    }
    points = {name: report.observations for name, report in (brackets or {}).items()}
    placed = {name: brackets_of(report.observations, points, metric) for name, report in reports.items()}
    return Comparison(metric, common, rows, warnings, seeds, {n: found for n, found in placed.items() if found})


def _over_seeds(reports: Sequence[RobustnessReport], metric: str, common: Sequence[Place]) -> list[AcrossSeeds]:
    first, *others = reports
    wanted = [r for r in first.recoveries if r.metric == metric and (r.attack, r.point) in common]
    return across_seeds([replace(first, recoveries=wanted), *others])


def _attacks(report: RobustnessReport, metric: str) -> dict[Place, str]:
    """The settings of each attack at each point."""
    return {(r.attack, r.point): str(sorted(r.attack_config.items())) for r in report.recoveries if r.metric == metric}


def _row(name: str, report: RobustnessReport, metric: str, common: Sequence[Place]) -> Compared:
    counted = [r for r in report.recoveries if r.metric == metric and (r.attack, r.point) in common]
    worst = strongest([r for r in counted if not r.is_deployment])
    deployed = strongest([r for r in counted if r.is_deployment])
    utility, index = str(report.summary["utility_metric"]), ObservationIndex(report.observations)
    before, after = (index.find(utility, "retain", subject=who) for who in _BOTH)
    kept = kept_share(before, after)
    return Compared(
        name,
        _level(report, "unlearned", metric, "forget"),
        kept if kept is not None and math.isfinite(kept) else None,
        None if worst is None else worst.shown,
        _where(worst),
        None if deployed is None else deployed.shown,
        _where(deployed),
    )


_BOTH: tuple[Subject, ...] = ("original", "unlearned")


def _failed(report: RobustnessReport) -> set[str]:
    """Attacks that broke off: the points that they reached say nothing of those that they did not."""
    return {f.attack for f in ObservationIndex(report.observations, report.failures).standing if f.attacked}


def _level(report: RobustnessReport, model: str, metric: str, split: str) -> Interval | None:
    found = [each for each in report.levels if (each.model, each.metric, each.split) == (model, metric, split)]
    return found[0].interval if found else None


def _where(recovery: Recovery | None) -> str:
    return "" if recovery is None else f"{recovery.attack}, {strength(recovery.point, recovery.unit)}"


def _shown(row: Compared) -> bool:
    return row.worst is not None and row.kept is not None


def _beats(one: Compared, other: Compared) -> bool:
    """Whether ``one`` is at least as good in both, and better in one. A number that is no verdict beats nothing."""
    if one.worst is None or one.kept is None:
        return False
    if other.worst is None or other.kept is None:
        return True
    pairs = ((one.kept, other.kept), (-one.worst.value, -other.worst.value))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def _warnings(
    reports: Mapping[str, RobustnessReport],
    settings: Mapping[str, Mapping[Place, str]],
    broken: Mapping[str, set[str]],
    common: Sequence[Place],
) -> list[str]:
    found = []
    if not common:
        found.append("No attack with the same settings is in all reports: nothing that comes back is compared.")
    for name, report in reports.items():
        for attack in sorted(broken[name]):
            found.append(
                f"{attack} failed in {name}, and is left out everywhere: what it would bring back is not known."
            )
        anywhere = set().union(*broken.values())
        left_out = sorted({attack for attack, _ in settings[name]} - {attack for attack, _ in common} - anywhere)
        if left_out:
            found.append(f"{name}: {', '.join(left_out)} left out, since not all reports have it with equal settings.")
        if report.failures:
            found.append(f"{name}: {len(report.failures)} attacks or audits failed; see its own page.")
    controlled = {name: any(r.adjusted is not None for r in report.recoveries) for name, report in reports.items()}
    if len(set(controlled.values())) > 1:
        without = ", ".join(name for name, has in controlled.items() if not has)
        found.append(f"No control in {without}: there, what an attack taught anew counts as recovered.")
    return found
