"""What the verdict is about: recoveries on the leading metric, the worst of them, and what failed."""

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Recovery, RobustnessReport


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


def standing_failures(report: RobustnessReport) -> list[Failure]:
    """What failed on the model that the verdict is about."""
    return ObservationIndex(report.observations, report.failures).standing
