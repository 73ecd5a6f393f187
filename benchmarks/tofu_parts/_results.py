from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from robustness_parts._criterion import kept
from robustness_parts._method import Method
from robustness_parts._recovery import FORGOTTEN, Seen, worst
from robustness_parts._units import Unit

from lightning_unlearn.audits.tofu import tofu_summary
from tofu_parts._claims import BOUNDS, CLAIMS
from tofu_parts._controls import CONTROLS, ORIGINAL, RETAIN_ONLY
from tofu_parts._differences import Draws, all_differences
from tofu_parts._draws import DRAWS, interval, over_seeds
from tofu_parts._measures import BUDGETS, Measured, Run, forgotten, measured
from tofu_parts._study import TOFUStudy

DESTROYED = 0.5
"""A network with less than this share of the original's retain probability is destroyed: what it forgot is no merit.

Not of its utility: of that harmonic mean SmolLM2's ROUGE on 30 real authors, 0 to 0.1, decides alone.
"""

Found = dict[str, Any]
ByName = dict[str, dict[int, dict[str, Measured]]]


def results(study: TOFUStudy, missing: Mapping[str, str]) -> Found:
    """What the units that are done say: by network and seed, with intervals, differences and claims."""
    runs = {one.name: _runs(study, one) for one in study.subjects}
    every: ByName = {name: {seed: measured(run) for seed, run in of.items()} for name, of in runs.items() if of}
    shown = {one.name: _shown(study, one, runs[one.name], every.get(one.name, {})) for one in study.subjects}
    mark_destroyed(shown)
    draws = by_measure(every)
    whole = [method for method in study.methods if method.name in every and not shown[method.name]["destroyed"]]
    names = [method.name for method in whole]
    plain = [method.name for method in whole if is_plain(method)]
    return {
        "setting": study.setting.name,
        "numbers": _numbers(study),
        "networks": shown,
        "best two": study.best_two().found().get("of") if study.best_two().is_done else None,
        "differences": {measure: [each.told() for each in all_differences(of, names)] for measure, of in draws.items()},
        "claims": [
            *(claim.checked(draws) for claim in CLAIMS),
            *(bound.checked({n: s["intervals"] for n, s in shown.items()}, plain) for bound in BOUNDS),
        ],
        "hours": _hours(study.units()),
        "skipped": dict(missing),
    }


def is_plain(method: Method) -> bool:
    """Whether it has no part that is to make it last."""
    unlearn = method.described.get("unlearn") or {}
    return not {"part", "best_two"} & set(method.described) and "under" not in unlearn


def _hours(units: Iterable[Unit]) -> dict[str, float]:
    """Of processes, beside what else ran: by what was done."""
    seconds: Counter[str] = Counter()
    for unit in {unit.path: unit for unit in units if unit.is_done}.values():
        kind = "taught" if unit.path.parent.name == "taught" else unit.path.stem.split("-")[0]
        seconds[kind] += unit.found().get("wall_s", 0.0)
    return {kind: round(of / 3600, 2) for kind, of in seconds.items()}


def by_measure(every: ByName) -> dict[str, Draws]:
    """The same, by measure first."""
    measures = dict.fromkeys(measure for of in every.values() for found in of.values() for measure in found)
    return {
        measure: {name: {seed: found[measure] for seed, found in of.items()} for name, of in every.items()}
        for measure in measures
    }


def _numbers(study: TOFUStudy) -> Found:
    setting = study.setting
    names = ("teach", "batch", "steps", "rates", "kl", "every", "precision", "new_tokens")
    return {
        **{name: getattr(setting, name) for name in names},
        "trials of each method": len(setting.rates),
        "chosen": _choice(setting.keep),
        "draws": DRAWS,
        "recovery needs": FORGOTTEN,
        "destroyed below": DESTROYED,
        "rows": {name: len(rows) for name, rows in setting.world("test").asked.items()},  # type: ignore[attr-defined]
    }


def _choice(keep: float | None) -> str:
    if keep is None:
        return "largest difference of the share of the retain probability kept and an attacker's lead, on other authors"
    return f"smallest lead of an attacker among rates that keep {keep} of the retain probability, on other authors"


def _runs(study: TOFUStudy, subject: Method) -> dict[int, Run]:
    found = {seed: _run(study, subject, seed) for seed in study.seeds}
    return {seed: run for seed, run in found.items() if run is not None}


def _run(study: TOFUStudy, subject: Method, seed: int) -> Run | None:
    """``None`` until all have looked at it, or if it failed."""
    asked, retained = study.asked(subject, seed), study.asked(RETAIN_ONLY, seed)
    judged, control = study.judged(subject, seed), study.judged_control(seed)
    taught, fit = study.taught("test", seed), study.fitted(subject, seed)
    needed = (asked, retained, taught, fit)
    if not all(unit.is_done for unit in (*needed, *judged.values(), *control.values())):
        return None
    if any("error" in unit.found() for unit in needed):
        return None
    known, knows = taught.found(), fit.found()
    pairs = {name: (unit.found(), control[name].found()) for name, unit in judged.items()}
    return Run(
        scores=asked.found()["scores"],
        retained=retained.found()["scores"],
        knows={name: knows[name] for name in ("forget", "retain", "holdout")},
        judges={
            name: Seen(
                original=known["original"]["forget"],
                before=(knows["forget"], known["control"]["forget"]),
                unlearned=one["curve"],
                control=other["curve"],
                judged=slice(None),
                counts_steps="steps" in study.panel[name].arguments,
            )
            for name, (one, other) in pairs.items()
            if "curve" in one and "curve" in other
        },
        original=known["original"]["forget"],
        control=known["control"]["forget"],
    )


def _shown(
    study: TOFUStudy, subject: Method, runs: Mapping[int, Run], of: Mapping[int, Mapping[str, Measured]]
) -> Found:
    is_control = subject in CONTROLS
    trials = [] if is_control else [unit.found() for unit in study.trials(subject) if unit.is_done]
    return {
        "control": is_control,
        "description": dict(subject.described),
        "trials": [_trial(trial) for trial in trials],
        "runs": [_told(study, subject, seed, run, of[seed]) for seed, run in runs.items()],
        "intervals": {measure: _interval(of, measure) for measure in (next(iter(of.values())) if of else ())},
        "failed": _failed(study, subject),
        "cost": None if is_control else _cost(study.cost(subject)),
    }


def _cost(unit: Unit) -> Found | None:
    found = unit.found() if unit.is_done else {}
    return {name: found[name] for name in ("step_s", "peak_gib")} if "step_s" in found else None


def _interval(of: Mapping[int, Mapping[str, Measured]], measure: str) -> list[float | None]:
    """Mean over seeds, and where its 95 % interval begins and ends."""
    finite = {seed: found[measure] for seed, found in of.items() if np.isfinite(found[measure][0])}
    if not finite:
        return [None, None, None]
    value = float(np.mean([point for point, _ in finite.values()]))
    ends = interval(over_seeds({seed: draws for seed, (_, draws) in finite.items()}, sorted(finite)))
    return [_number(each) for each in (value, *ends)]


def _told(study: TOFUStudy, subject: Method, seed: int, run: Run, of: Mapping[str, Measured]) -> Found:
    fit = study.fitted(subject, seed).found()
    known = study.taught("test", seed).found()["original"]
    spent = {name: fit.get(name) for name in ("rate", "steps", "disruption", "fit_s", "peak_gib")}
    return {
        "seed": seed,
        **spent,
        "kept": _number(kept({**run.knows, "original retain": known["retain"]})),
        "forgotten": _number(forgotten(run)),
        "tofu": {name: _small(value) for name, value in tofu_summary(run.scores, run.retained).items()},
        "measures": {name: _number(value) for name, (value, _) in of.items()},
        "worst": {str(most): _worst(run, most) for most in BUDGETS},
        "judges": {name: [_number(one.worst(most)[0]) for most in BUDGETS] for name, one in run.judges.items()},
    }


def _worst(run: Run, most: int) -> Found | None:
    if not run.judges or forgotten(run) < FORGOTTEN:
        return None
    value, judge, point = worst(run.judges, most)
    return {"recovery": _number(value), "judge": judge, "point": point}


def _trial(trial: Mapping[str, Any]) -> Found:
    if "error" in trial:
        return dict(trial)
    told = {name: trial[name] for name in ("rate", "steps", "disruption")}
    forget = _number(float(np.mean(trial["forget"])))
    return {**told, "forget": forget, "kept": _number(kept(trial)), "lead": _number(trial["lead"])}


def _failed(study: TOFUStudy, subject: Method) -> dict[str, str]:
    """What ended in an error, by seed and unit."""
    found = {}
    for seed in study.seeds:
        units = {"fit": study.fitted(subject, seed), "asked": study.asked(subject, seed), **study.judged(subject, seed)}
        errors = {
            name: unit.found()["error"] for name, unit in units.items() if unit.is_done and "error" in unit.found()
        }
        found |= {f"{name}, seed {seed}": error for name, error in errors.items()}
    return found


def mark_destroyed(shown: dict[str, Found]) -> None:
    whole = shown[ORIGINAL.name]["intervals"].get("retain", [None])[0]
    for found in shown.values():
        left = found["intervals"].get("retain", [None])[0]
        found["destroyed"] = None if whole is None or left is None else left < DESTROYED * whole


def _number(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _small(value: float) -> float | None:
    """With as many digits whatever its size: a forget quality may be 1e-20."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
