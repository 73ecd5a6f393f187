"""The record of a report."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_unlearn.observation import NOT_ATTACKED, Change, Cost
from lightning_unlearn.report.analysis._code import code_facts
from lightning_unlearn.report.analysis._method import method_of
from lightning_unlearn.report.analysis._not_claimed import not_claimed
from lightning_unlearn.report.analysis._observation_index import ObservationIndex
from lightning_unlearn.report.schema import Record, RobustnessReport


def recorded(
    report: RobustnessReport,
    *,
    weights: Mapping[str, Sequence[int]] | None = None,
    changes: Sequence[Change] = (),
    costs: Sequence[Cost] = (),
    seeds: Mapping[str, int] | None = None,
    budget: Mapping[str, float] | None = None,
    objective: str = "",
    edits: Sequence[str] = (),
) -> RobustnessReport:
    """The report with its record: what somebody needs who wants to check it, or to make it again.

    Args:
        report: What :func:`assess` made.
        weights: For each model, a hash of its weights on each process.
        changes: How far each tensor is from the original's.
        costs: What each attack cost.
        seeds: Seeds by what they are of.
        budget: Steps, epochs, batches and seconds of the fit.
        objective: What was minimised.
        edits: Edits that were made at once.

    Example:
        >>> from lightning_unlearn.report import assess
        >>> recorded(assess([], draws=20), weights={"unlearned": [255]}).record.weights
        {'unlearned': ['00000000000000ff']}
    """
    index = ObservationIndex(report.observations, report.failures)
    spent = {"attacks_s": _seconds(costs, attacked=True), "audits_s": _seconds(costs, attacked=False)} if costs else {}
    record = Record(
        weights={model: [f"{each:016x}" for each in hashes] for model, hashes in (weights or {}).items()},
        config_hash=f"sha256:{hashlib.sha256(report.config.encode()).hexdigest()}" if report.config else "",
        code={"package_version": report.run.get("package_version", "unknown"), **code_facts()},
        seeds=dict(seeds or {}),
        budget={**(budget or {}), **spent},
        method=method_of(changes, objective=objective, edits=edits),
        changes=list(changes),
        costs=list(costs),
        not_claimed=not_claimed(index),
    )
    return replace(report, record=record)


def _seconds(costs: Sequence[Cost], *, attacked: bool) -> float:
    return round(sum(cost.seconds for cost in costs if (cost.attack != NOT_ATTACKED) is attacked), 3)
