from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

import numpy as np

from robustness_parts._criterion import kept
from robustness_parts._method import Method
from robustness_parts._recovery import Seen, interval, worst
from robustness_parts._study import Study

BUDGETS = (20, 100)


def results(study: Study, missing: Mapping[str, str]) -> dict[str, Any]:
    """What the units of a study that are done say, method by method."""
    setting = study.setting
    return {
        "setting": setting.name,
        "numbers": {"steps": setting.steps, "kl": setting.kl, "rates": setting.rates, "batch": setting.batch},
        "originals": {str(seed): levels(study, seed) for seed in study.seeds if study.taught("test", seed).is_done},
        "methods": {method.name: _method(study, method) for method in study.methods},
        "skipped": dict(missing),
    }


def levels(study: Study, seed: int) -> dict[str, dict[str, float]]:
    found = study.taught("test", seed).found()
    return {
        who: {split: round(float(np.mean(values)), 4) for split, values in found[who].items()}
        for who in ("original", "control")
    }


def _method(study: Study, method: Method) -> dict[str, Any]:
    trials = [unit.found() for unit in study.trials(method) if unit.is_done]
    runs = [run for seed in study.seeds if (run := _run(study, method, seed))]
    entry: dict[str, Any] = {"description": dict(method.described), "trials": [trial_told(trial) for trial in trials]}
    if runs:
        entry["interval"] = {
            str(most): _interval(study, method, [run["seed"] for run in runs], most) for most in BUDGETS
        }
    return {**entry, "runs": runs}


def trial_told(trial: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in trial:
        return dict(trial)
    shown = {key: trial[key] for key in ("rate", "steps", "disruption")}
    forget = round(float(np.mean(trial["forget"])), 4)
    return {**shown, "forget": forget, "kept": round(kept(trial), 4), "lead": round(trial["lead"], 4)}


def _run(study: Study, method: Method, seed: int) -> dict[str, Any] | None:
    """One fit; ``None`` until all judges have seen it."""
    unit = study.fitted(method, seed)
    if not unit.is_done:
        return None
    fit = unit.found()
    if "error" in fit:
        return {"seed": seed, "error": fit["error"]}
    seen = seen_by_judges(study, method, seed)
    if seen is None:
        return None
    known = study.taught("test", seed).found()["original"]
    return {
        "seed": seed,
        **{key: fit[key] for key in ("rate", "steps", "disruption")},
        "forget": round(float(np.mean(fit["forget"])), 4),
        "kept": round(kept({**fit, "original retain": known["retain"]}), 4),
        "worst": {str(most): _told(worst(seen, most), seen) for most in BUDGETS},
        "judges": {name: [_rounded(one.worst(most)[0]) for most in BUDGETS] for name, one in seen.items()},
        "failed": _failed(study, method, seed),
    }


def _told(found: tuple[float, str, str], seen: Mapping[str, Seen]) -> dict[str, Any]:
    value, judge, point = found
    _, _, unlearned, _, control = seen[judge].scores(point).mean(0)
    attacked = {"unlearned": round(float(unlearned), 4), "control": round(float(control), 4)}
    return {"recovery": _rounded(value), "judge": judge, "point": point, "attacked": attacked}


def _rounded(recovery: float) -> float | None:
    """``None`` where nothing was forgotten, so that nothing can come back."""
    return None if isnan(recovery) else round(recovery, 4)


def seen_by_judges(study: Study, method: Method, seed: int) -> dict[str, Seen] | None:
    """What each judge found, but for those whose attack this version does not have; ``None`` until all are done."""
    judged, control = study.judged(method, seed), study.judged_control(seed)
    if not all(unit.is_done for unit in (*judged.values(), *control.values())):
        return None
    taught, fit = study.taught("test", seed).found(), study.fitted(method, seed).found()
    pairs = {name: (unit.found(), control[name].found()) for name, unit in judged.items()}
    return {
        name: Seen(
            original=taught["original"]["forget"],
            before=(fit["forget"], taught["control"]["forget"]),
            unlearned=one["curve"],
            control=other["curve"],
            judged=slice(1, None, 2) if study.panel[name].rows == "half" else slice(None),
            counts_steps="steps" in study.panel[name].arguments,
        )
        for name, (one, other) in pairs.items()
        if "curve" in one and "curve" in other
    }


def _failed(study: Study, method: Method, seed: int) -> dict[str, str]:
    found = {name: unit.found() for name, unit in study.judged(method, seed).items()}
    return {name: one["error"] for name, one in found.items() if "error" in one}


def _interval(study: Study, method: Method, seeds: list[int], most: int) -> list[float] | None:
    """Of the mean over seeds of the worst recovery, each at its own judge and point; of those where something went."""
    chosen = []
    for seed in seeds:
        seen = seen_by_judges(study, method, seed)
        if seen is None:
            return None
        value, judge, point = worst(seen, most)
        if not isnan(value):
            chosen.append(seen[judge].scores(point))
    return [round(end, 4) for end in interval(chosen)] if chosen else None
