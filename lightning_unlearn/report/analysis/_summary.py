"""What a report says in short, as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.report.analysis._assessment import Assessment
from lightning_unlearn.report.analysis._curves import effort_by_attack, least_effort, median_effort
from lightning_unlearn.report.analysis._degrees import degrees
from lightning_unlearn.report.analysis._fair_worst import FairWorst, fair_worst
from lightning_unlearn.report.analysis._headline import adversary_words, deployment_words, failed_attacks
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.analysis._standings import by_family, by_metric, place_of
from lightning_unlearn.report.analysis._utility import LOSS, kept_share
from lightning_unlearn.report.analysis._worst import strongest
from lightning_unlearn.report.analysis.over_time import over_time
from lightning_unlearn.report.schema import Recovery
from lightning_unlearn.report.schema._words import name


def summary(assessment: Assessment, headline: str, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """The headline and what stands beside it.

    - ``verdict``, ``deployment``: the two sentences; ``worst``, ``worst_deployment``: the places of the largest numbers.
    - ``held_out``, ``held_out_deployment``: the number that leads, chosen by one half of the entities and judged by the
      other: ``value``, ``low``, ``high``, ``unbounded``, ``method``, ``entities``, and ``choices``, the place that each half
      chose. None if there are too few entities; then the largest number leads.
    - ``by_family``, ``by_metric``: see :func:`by_family`.
    - ``effort``: see :func:`effort_by_attack`; ``least_effort``, ``median_effort``: steps until half came back.
    - ``unlearning``: see :func:`degrees`.
    - ``over_time``: see :func:`over_time`, of the metric to lead with.
    - ``front``: ``utility``, the share of the original's that unlearning left, and ``robustness``, 1 less the adversary's
      number that leads, from 0 to 1; for comparing models.

    Args:
        assessment: Of the observations.
        headline: The metric to lead with.
        recoveries: All, on all metrics.
    """
    index, leading = assessment.index, [recovery for recovery in recoveries if recovery.metric == headline]
    groups = {kind: [r for r in leading if r.is_deployment is kind] for kind in (False, True)}
    fair = {kind: _fair(assessment, groups[kind], deployment=kind) for kind in groups}
    rows = effort_by_attack(groups[False])
    shown = headline, _utility_words(index, assessment.utility), leading, index.standing
    early = (
        f"Incomplete: the run was ended before its time by {assessment.interrupted}. " if assessment.interrupted else ""
    )
    return {
        "headline_metric": headline,
        "utility_metric": assessment.utility,
        "unlearned_step": index.final_step(),
        "verdict": early + adversary_words(*shown, fair[False]),
        "deployment": deployment_words(*shown, fair[True]),
        "worst": _worst(index, groups[False], deployment=False),
        "worst_deployment": _worst(index, groups[True], deployment=True),
        "held_out": _as_values(fair[False]),
        "held_out_deployment": _as_values(fair[True]),
        "by_family": by_family(leading),
        "by_metric": by_metric(recoveries),
        "effort": rows,
        "least_effort": least_effort(rows),
        "median_effort": median_effort(rows),
        "unlearning": degrees(index, headline, assessment.utility, assessment.floors),
        "over_time": over_time(
            index.observations, headline, assessment.floors.get(headline), _perfect(index, headline)
        ),
        "front": _front(assessment, groups[False], fair[False]),
    }


def _fair(assessment: Assessment, recoveries: Sequence[Recovery], *, deployment: bool) -> FairWorst | None:
    if failed_attacks(assessment.index.standing, deployment=deployment):
        return None
    return fair_worst(recoveries, assessment.cases, assessment.bootstrap)


def _worst(index: ObservationIndex, recoveries: Sequence[Recovery], *, deployment: bool) -> dict[str, Any] | None:
    """Place of the worst case. None if an attack of this kind failed: what it would have brought back may be worse."""
    if failed_attacks(index.standing, deployment=deployment):
        return None
    return place_of(strongest(recoveries))


def _as_values(fair: FairWorst | None) -> dict[str, Any] | None:
    if fair is None:
        return None
    shown = fair.recovery
    return {
        "value": shown.value,
        "low": shown.low,
        "high": shown.high,
        "unbounded": shown.unbounded,
        "method": shown.method,
        "entities": shown.entities,
        "choices": [place_of(choice) for choice in fair.choices],
    }


def _front(
    assessment: Assessment, recoveries: Sequence[Recovery], fair: FairWorst | None
) -> Mapping[str, float | None]:
    find, utility = assessment.index.find, assessment.utility
    kept = kept_share(find(utility, "retain", subject="original"), find(utility, "retain", subject="unlearned"))
    worst = strongest(recoveries)
    back = fair.recovery.value if fair else worst.shown.value if worst else None
    if failed_attacks(assessment.index.standing, deployment=False):
        back = None
    return {
        "utility": kept if kept is None or math.isfinite(kept) else None,
        "robustness": None if back is None else 1 - min(max(back, 0.0), 1.0),
    }


def _perfect(index: ObservationIndex, metric: str) -> float:
    """The best value that a metric can have; 0 for one without bounds, such as a loss."""
    observed = next((o for o in index.observations if o.metric == metric), None)
    if observed is None or observed.bounds is None:
        return 0.0
    return observed.bounds[1 if observed.higher_means_known else 0]


def _utility_words(index: ObservationIndex, utility: str) -> str:
    """A metric's name. For a loss, its likelihood: a price is a share of a utility, of which more is better."""
    if utility == LOSS:
        return "1 / loss"
    falls = any(o.metric == utility and not o.higher_means_known for o in index.observations)
    return f"likelihood (by {name(utility)})" if falls else name(utility)
