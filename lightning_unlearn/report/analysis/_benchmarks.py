"""General benchmarks beside a report, and the condition that they are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._bootstrap import Bootstrap
from lightning_unlearn.report.analysis._lm_eval import PREFIX, read_lm_eval, what_was_run
from lightning_unlearn.report.schema import Gate, Interval, Level, RobustnessReport, Status

CLAIM = "General benchmarks are kept"


def with_benchmarks(
    report: RobustnessReport,
    original: str | Path,
    unlearned: str | Path,
    *,
    tolerances: Mapping[str, float],
    draws: int = 2000,
    seed: int = 0,
) -> RobustnessReport:
    """The report with what the ``lm-eval`` harness found, and a gate, G12, for each tolerance.

    The gate is passed if the whole 95 % interval of the loss is within the tolerance, and failed if the loss itself is
    not. Between the two more documents are needed: a warning. Both models answer the same documents, so the loss is paired,
    document by document, where they were logged (``--log_samples``).

    Args:
        report: Of the unlearned model.
        original: What the harness wrote of the model before unlearning: a folder, or ``results_*.json``.
        unlearned: The same of the unlearned model.
        tolerances: The loss that is allowed, by task and metric, such as ``{"arc_easy/acc": 0.02}``, in the metric's own
            units. Declare it before you look.
        draws: Number of bootstrap resamples.
        seed: Of the bootstrap.

    Returns:
        A new report; :func:`save` writes it. What an earlier call added is replaced.

    Raises:
        ValueError: If a tolerance is for something that was not measured, or is not a number from 0 on; or the two were not
            run in the same way.
    """
    _refuse_other_runs(what_was_run(original), what_was_run(unlearned))
    bootstrap = Bootstrap(draws, seed)
    step = max((level.step for level in report.levels if level.model == "unlearned"), default=0)
    before, after = read_lm_eval(original, "original"), read_lm_eval(unlearned, "unlearned", step=step)
    pairs = {f"{o.split.removeprefix(PREFIX)}/{o.metric}": (o, u) for o in before for u in after if _same(o, u)}
    _refuse_tolerances(tolerances, pairs)
    gates = [_gate(name, bootstrap.gap(*pairs[name]), allowed, pairs[name]) for name, allowed in tolerances.items()]
    seen = [observation for pair in pairs.values() for observation in pair]
    levels = [Level(o.subject, o.step, o.metric, o.split, bootstrap.level(o)) for o in seen]
    return replace(
        report,
        observations=[*(o for o in report.observations if not o.split.startswith(PREFIX)), *seen],
        levels=[*(level for level in report.levels if not level.split.startswith(PREFIX)), *levels],
        gates=[*(gate for gate in report.gates if gate.code != "G12"), *gates],
    )


def _same(one: Observation, other: Observation) -> bool:
    return (one.split, one.metric) == (other.split, other.metric)


def _gate(name: str, loss: Interval, allowed: float, pair: Sequence[Observation]) -> Gate:
    before, after = pair
    reason = f"{name} was {before.estimate:.3f} and is {after.estimate:.3f}: a loss of {loss.value:.3f}"
    if loss.low is not None and loss.high is not None:
        reason += f" [{loss.low:.3f}, {loss.high:.3f}]"
    reason += f"; at most {allowed:g} is allowed"
    status: Status = "warning"
    if not math.isfinite(loss.value) or loss.value > allowed:
        status = "fail"
    elif loss.value == 0 and before.scores and before.scores == after.scores:
        status = "pass"  # nothing differs, on any document
    elif loss.high is None:
        reason += "; the loss has no interval"
    elif loss.high <= allowed:
        status = "pass"
    else:
        reason += "; by these documents it may be more"
    return Gate("G12", CLAIM, status, reason, metric=name)


def _refuse_tolerances(tolerances: Mapping[str, float], pairs: Mapping[str, object]) -> None:
    if unknown := [name for name in tolerances if name not in pairs]:
        raise ValueError(
            "`tolerances` should be for what both models were measured by. Found "
            f"{unknown[0]!r}, and these: {', '.join(map(repr, pairs)) or 'none'}."
        )
    if bad := {name: allowed for name, allowed in tolerances.items() if not 0 <= allowed < math.inf}:
        raise ValueError(f"`tolerances` should be losses that are allowed, from 0 on. Found `{bad}`.")


def _refuse_other_runs(
    original: Mapping[str, Mapping[str, object]], unlearned: Mapping[str, Mapping[str, object]]
) -> None:
    for task in original.keys() & unlearned.keys():
        for what, before in original[task].items():
            if before != unlearned[task][what]:
                raise ValueError(
                    f"Both models should be measured in the same way. Found that `{task}` has another {what}: {before!r} of "
                    f"the original, {unlearned[task][what]!r} of the unlearned. Run lm-eval again with the same arguments."
                )
