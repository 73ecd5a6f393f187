"""What the verdict is about: recoveries on the leading metric, the worst of them, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Interval, Recovery, RobustnessReport


def recoveries_by(report: RobustnessReport, *, deployment: bool) -> list[Recovery]:
    """Recoveries by adversaries, or by deployments, on the metric the report leads with."""
    metric = report.summary["headline_metric"]
    return [r for r in report.recoveries if r.metric == metric and r.is_deployment is deployment]


def worst_place(report: RobustnessReport, place: Mapping[str, Any] | None) -> Recovery | None:
    """The recovery that the summary calls the worst, by its attack and point."""
    if place is None:
        return None
    wanted = (report.summary["headline_metric"], place["attack"], place["point"])
    return next(r for r in report.recoveries if (r.metric, r.attack, r.point) == wanted)


@dataclass(frozen=True)
class Leading:
    """The number that a verdict follows.

    Args:
        number: What comes back: as judged by entities that did not choose the attack, where there are enough of them.
        largest: The attack that brings back most on all entities.
        choices: What the number is of: the attacks that the two halves of the entities chose, which may be one.
    """

    number: Interval
    largest: Recovery
    choices: list[Recovery]

    @property
    def is_of_two(self) -> bool:
        """Whether the two halves of the entities chose different attacks, or points of one."""
        return len(self.choices) > 1


def leading(report: RobustnessReport, which: Literal["worst", "worst_deployment"]) -> Leading | None:
    """The number that leads, of adversaries or of deployments; None if no number passes its gates."""
    largest = worst_place(report, report.summary[which])
    held = report.summary[_HELD_OUT[which]]
    if largest is None or held is None:
        return None if largest is None else Leading(largest.shown, largest, [largest])
    number = Interval(**{name: value for name, value in held.items() if name != "choices"})
    one, other = (worst_place(report, choice) for choice in held["choices"])
    assert one is not None
    assert other is not None
    return Leading(number, largest, [one] if one is other else [one, other])


_HELD_OUT = {"worst": "held_out", "worst_deployment": "held_out_deployment"}


def standing_failures(report: RobustnessReport) -> list[Failure]:
    """What failed on the model that the verdict is about."""
    return ObservationIndex(report.observations, report.failures).standing
