from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision_parts._judges import PANEL
from vision_parts._study import Study, gap

ROWS = ("forget", "retain", "test", "membership", "gap", "divergence", "weights")


def results(study: Study, missing: Mapping[str, str]) -> dict[str, Any]:
    """What the units of a study that are done say: kind by kind, method by method, seed by seed."""
    return {
        "setting": study.setting.name,
        "numbers": study.setting.numbers(),
        "kinds": {kind: _kind(study, kind) for kind in study.kinds},
        "skipped": dict(missing),
    }


def _kind(study: Study, kind: str) -> dict[str, Any]:
    seeds = [seed for seed in study.seeds if study.taught(kind, seed).is_done]
    taught = {str(seed): study.taught(kind, seed).found() for seed in seeds}
    return {"taught": taught, "methods": {method.name: _method(study, kind, method) for method in study.methods}}


def _method(study: Study, kind: str, method: Any) -> dict[str, Any]:
    trials = [unit.found() for unit in study.trials(kind, method) if unit.is_done]
    runs = [run for seed in study.seeds if (run := _run(study, kind, method, seed))]
    return {"description": dict(method.described), "trials": trials, "runs": runs}


def _run(study: Study, kind: str, method: Any, seed: int) -> dict[str, Any] | None:
    """One fit; ``None`` until all judges have seen it."""
    fit, judged, control = (
        study.fitted(kind, method, seed),
        study.judged(kind, method, seed),
        study.judged(kind, None, seed),
    )
    if fit.is_done and "error" in fit.found():
        return {"seed": seed, "error": fit.found()["error"]}
    if not (judged.is_done and control.is_done) or "error" in judged.found():
        return None
    found = fit.found()
    leads = {name: lead(judged.found()[name], control.found()[name]) for name in PANEL if judged.found()[name]}
    return {
        "seed": seed,
        "rate": found["rate"],
        **found["known"],
        "gap": round(gap(found["known"], study.retrained(kind, seed)), 4),
        "before": round(judged.found()["before"] - control.found()["before"], 4),
        "leads": leads,
    }


def lead(unlearned: Mapping[str, float], control: Mapping[str, float]) -> float:
    """How far an attacker is ahead of one with a retrained network, in probability, at the best of his points."""
    return round(max(unlearned[point] - control[point] for point in unlearned), 4)


def table(found: Mapping[str, Any]) -> str:
    """One table for each kind of request: means over the seeds, in brackets the smallest and the largest."""
    return "\n\n".join(_table(kind, one) for kind, one in found["kinds"].items() if one["taught"])


def _table(kind: str, found: Mapping[str, Any]) -> str:
    head = ["network", *ROWS, "lead before", "after relearning", "after recalibration", "after int4", "rate"]
    lines = [f"**{kind}**", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    taught = list(found["taught"].values())
    for name in ("original", "retrained"):
        seen = [{**one[name], "gap": gap(one[name], one["retrained"])} for one in taught]
        lines.append(_line(name, seen, ["", "", "", "", ""]))
    methods = {name: [run for run in one["runs"] if "error" not in run] for name, one in found["methods"].items()}
    for name, runs in sorted(methods.items(), key=lambda item: np.mean([run["gap"] for run in item[1]] or [9.0])):
        if runs:
            after = [[_worst(run, what) for run in runs] for what in ("relearn", "recalibrate", "int4")]
            cells = [_span([run["before"] for run in runs], 2), *(_span(some, 2) for some in after)]
            lines.append(_line(name, runs, [*cells, "; ".join(sorted({f"{run['rate']:g}" for run in runs}))]))
    failed = {name: one["runs"][0]["error"] for name, one in found["methods"].items() if _has_failed(one)}
    return "\n".join([*lines, *(f"\nNot run: {name} ({reason})." for name, reason in failed.items())])


def _worst(run: Mapping[str, Any], what: str) -> float | None:
    leads = [value for name, value in run["leads"].items() if name.startswith(what)]
    return max(leads) if leads else None


def _has_failed(one: Mapping[str, Any]) -> bool:
    return bool(one["runs"]) and "error" in one["runs"][0]


def _line(name: str, seen: list[dict[str, Any]], rest: list[str]) -> str:
    cells = [_span([one[row] for one in seen], 3 if row in ("gap", "divergence") else 2) for row in ROWS]
    return "| " + " | ".join([name, *cells, *rest]) + " |"


def _span(values: list[Any], digits: int) -> str:
    """Mean, smallest and largest."""
    given = [value for value in values if value is not None]
    if not given:
        return "-"
    told = f"{np.mean(given):.{digits}f}"
    return told if len(given) == 1 else f"{told} ({min(given):.{digits}f} to {max(given):.{digits}f})"
