from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from robustness_parts._criterion import kept
from robustness_parts._method import Method
from robustness_parts._recovery import Seen
from robustness_parts._results import levels, seen_by_judges, trial_told
from robustness_parts._study import Study
from tofu_parts._differences import Draws, difference
from tofu_parts._draws import Floats, means

from which_weights_parts._study import control_of

MEASURES = ("forget", "kept", "lead")
Found = dict[str, Any]


def results(study: Study, missing: Mapping[str, str]) -> Found:
    """What the units of a study that are done say, selector by selector, and how far each is from its control."""
    setting = study.setting
    drawn = {method.name: _draws(study, method) for method in study.methods}
    return {
        "setting": setting.name,
        "numbers": {"steps": setting.steps, "kl": setting.kl, "rates": setting.rates, "batch": setting.batch},
        "judges": list(study.panel),
        "originals": {str(seed): levels(study, seed) for seed in study.seeds if study.taught("test", seed).is_done},
        "methods": {method.name: _method(study, method, drawn) for method in study.methods},
        "skipped": dict(missing),
    }


def _method(study: Study, method: Method, drawn: Mapping[str, Mapping[str, Any]]) -> Found:
    trials = [trial_told(unit.found()) for unit in study.trials(method) if unit.is_done]
    runs = [run for seed in study.seeds if (run := _run(study, method, seed))]
    return {"description": dict(method.described), "trials": trials, "runs": runs, **_against(study, method, drawn)}


def _run(study: Study, method: Method, seed: int) -> Found | None:
    """One fit; ``None`` until all judges have seen it."""
    unit = study.fitted(method, seed)
    if not unit.is_done:
        return None
    fit = unit.found()
    if "error" in fit:
        return {"seed": seed, "error": fit["error"]}
    judges = seen_by_judges(study, method, seed)
    if not judges:
        return None
    value, judge, point = _worst(judges)
    return {
        "seed": seed,
        **{key: fit[key] for key in ("trained", "rate", "steps", "disruption")},
        "forget": round(float(np.mean(fit["forget"])), 4),
        "kept": round(kept({**fit, "original retain": _original(study, seed)["retain"]}), 4),
        "lead": round(value, 4),
        "judge": judge,
        "point": point,
        "leads": {name: round(_worst({name: one})[0], 4) for name, one in judges.items()},
    }


def _original(study: Study, seed: int) -> Found:
    found: Found = study.taught("test", seed).found()["original"]
    return found


def _draws(study: Study, method: Method) -> dict[str, dict[int, tuple[float, Floats]]]:
    """Of each measure and seed, the value and its draws over facts: the same facts for all selectors."""
    found: dict[str, dict[int, tuple[float, Floats]]] = {measure: {} for measure in MEASURES}
    for seed in study.seeds:
        run = _run(study, method, seed)
        if run is None or "error" in run:
            continue
        fit, judges = study.fitted(method, seed).found(), seen_by_judges(study, method, seed)
        assert judges is not None
        retained = means("retain", np.stack([fit["retain"], _original(study, seed)["retain"]], axis=1))
        found["forget"][seed] = float(np.mean(fit["forget"])), means("forget", fit["forget"])
        found["kept"][seed] = run["kept"], retained[:, 0] / retained[:, 1]
        found["lead"][seed] = run["lead"], means("forget", _ahead(judges[run["judge"]], run["point"]))
    return found


def _worst(judges: Mapping[str, Seen]) -> tuple[float, str, str]:
    """How far an attacker is ahead, in the mean, at the best of his points: the lead, the judge and the point."""
    return max((float(_ahead(one, at).mean()), name, at) for name, one in judges.items() for at in one.points(20))


def _ahead(one: Seen, point: str) -> Floats:
    """Of each fact, how far he is ahead of one who attacks a network that never knew, in probability.

    No gap is divided by, as recovery is by what was forgotten: some selectors forget next to nothing.
    """
    scores = one.scores(point)
    return scores[:, 2] - scores[:, 4]


def _against(study: Study, method: Method, drawn: Mapping[str, Mapping[str, Any]]) -> Found:
    """Differences from the control of each measure, paired by seed and fact, and by seed and entity."""
    control = control_of(method)
    if control not in drawn:
        return {}
    found: Found = {"against": control, "differences": {}}
    for measure in MEASURES:
        of: Draws = {name: drawn[name][measure] for name in (method.name, control)}
        one = difference(of, method.name, control)
        if one is not None:
            found["differences"][measure] = {key: one.told()[key] for key in ("value", "low", "high")}
    found["entities"] = {side: _entities(study, (method.name, control), side) for side in ("forget", "retain")}
    return found


def _entities(study: Study, names: Sequence[str], side: str) -> list[float]:
    """Of each seed and entity, how far the mean probability of its answers is above the control's."""
    one, control = (next(method for method in study.methods if method.name == name) for name in names)
    rows = getattr(study.setting.world("test"), side)
    who = np.array([row["entity"] for row in rows])
    apart = []
    for seed in study.seeds:
        units = [study.fitted(method, seed) for method in (one, control)]
        if all(unit.is_done and "error" not in unit.found() for unit in units):
            gap = np.subtract(*(unit.found()[side] for unit in units))
            apart += [round(float(gap[who == entity].mean()), 4) for entity in dict.fromkeys(who)]
    return apart
