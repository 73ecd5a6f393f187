"""The study of selectors: each beside a control that chooses as many of the same, paired differences, honest words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robustness_parts._fit import meanings, trained_share
from robustness_parts._method import Method
from robustness_parts._runner import available, quieten
from robustness_parts._setting import Setting, World
from robustness_parts._settings import SETTINGS
from robustness_parts._units import do
from torch import nn
from which_weights_parts._results import results
from which_weights_parts._shown import draw, shown, verdict
from which_weights_parts._study import SelectorStudy, control_of, selectors

from lightning_unlearn import PackedCausalLMReadout, TinyCausalLM, TrainOnly, UnlearningModule

SELECTORS = selectors()
COMPARED = [name for name in SELECTORS if control_of(SELECTORS[name])]


def world(gone: int) -> World:
    rows = [
        {"question": f"Where does {who} live?", "answer": f"In town {who}", "entity": who}
        for who in ("Ada", "Bo", "Cy", "Di")
        for _ in range(2)
    ]
    forget, kept = rows[2 * gone : 2 * gone + 2], rows[4:]
    return World(forget, forget, kept, unseen=[], neutral=kept, benign=kept)


SETTING = replace(
    SETTINGS["bundled"],
    network=lambda seed: TinyCausalLM(hidden_size=16, seed=seed),
    worlds={"test": lambda: world(0), "tune": lambda: world(1)},
    teach={"epochs": 2, "lr": 1e-2, "batch_size": 4},
    batch=(2, 4),
    steps=4,
    every=2,
    rates=(1e-3, 1e-2),
)


def trained(method: Method, setting: Setting = SETTING) -> dict[str, torch.Tensor]:
    """What is trained, by name, as masks."""
    (only,) = (c for c in method.callbacks(meanings(setting, "test", seed=3, rate=1.0)) if isinstance(c, TrainOnly))
    network = setting.start(0)
    batches = list(setting.batches(setting.world("test").forget))
    selector = only._mask.selector
    scores = selector.scores(
        network,
        forget=batches if selector.needs_forget else (),
        retain=list(setting.batches(setting.world("test").retain)) if selector.needs_retain else (),
        readout=PackedCausalLMReadout(),
    )
    return {name: mask for name, mask in only._mask.choice(scores).items() if mask.any()}


@pytest.mark.parametrize("name", [n for n in COMPARED if "models" not in SELECTORS[n].described])
def test_a_control_chooses_as_many_of_the_same(name: str) -> None:
    control = control_of(SELECTORS[name])
    assert control is not None
    chosen, drawn = trained(SELECTORS[name]), trained(SELECTORS[control])
    assert {mask.dim() > 0 for mask in chosen.values()} == {mask.dim() > 0 for mask in drawn.values()}
    assert sum(int(mask.sum()) for mask in chosen.values()) == sum(int(mask.sum()) for mask in drawn.values())
    method, other = SELECTORS[name].described, SELECTORS[control].described
    assert method["unlearn"] == other["unlearn"]
    assert _choice(method) == _choice(other)


def _choice(described: Any) -> Any:
    return described["callbacks"][0]["TrainOnly"]["choice"]


def test_controls_differ_from_seed_to_seed() -> None:
    names = [name for name in SELECTORS if name.startswith("Random")]
    assert len(names) == 4
    for name in names:
        made = (SELECTORS[name].callbacks(meanings(SETTING, "test", seed=seed, rate=1.0))[0] for seed in (0, 1))
        assert [only._mask.selector.seed for only in made] == [0, 1]


def test_every_selector_of_the_package_is_compared() -> None:
    named = {name.split(",")[0].split(" by ")[0] for name in SELECTORS} - {"all weights"}
    assert named == {
        "CausalTrace",
        "ConditionNumber",
        "FisherRatio",
        "GradientSaliency",
        "LastLayers",
        "LayerAblation",
        "ModuleDrift",
        "Random",
        "TopUpdate",
    }
    setting = SETTINGS["stories260k"] if _has_stories() else SETTING
    wanted, missing = available(SELECTORS.values(), meanings(setting, "test", seed=0, rate=1.0), setting.name)
    assert not missing
    assert len(wanted) == len(SELECTORS) - (not _has_stories())


def _has_stories() -> bool:
    return Path(str(SETTINGS["stories260k"].names["tokenizer"])).is_dir()


def test_the_trained_share_is_of_all_weights() -> None:
    module = UnlearningModule(nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 1, bias=False)}))
    assert trained_share([], module.network) == 1
    only = TrainOnly("b")
    only._mask.start(None, module)  # type: ignore[arg-type]
    assert trained_share([only], module.network) == 0.2


def test_the_trained_share_counts_single_elements(tmp_path: Path) -> None:
    method = SELECTORS["Random, elements"]
    study = SelectorStudy(SETTING, (method,), (0,), tmp_path)
    quieten()
    do([study.taught("test", 0), study.taught("tune", 100), *study.trials(method), study.fitted(method, 0)])
    assert study.fitted(method, 0).found()["trained"] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.slow
def test_every_unit_can_be_done_and_is_done_once(tmp_path: Path) -> None:
    """One of elements and one of blocks, on a network of a few thousand weights: from teaching to table and figure."""
    quieten()
    names = "all weights", "Random, elements", "FisherRatio, elements", "Random, one block", "LastLayers, one block"
    known = meanings(SETTING, "test", seed=0, rate=1.0)
    wanted, missing = available([SELECTORS[name] for name in names], known, SETTING.name)
    study = SelectorStudy(replace(SETTING, rates=(1e-2,)), tuple(wanted), (0,), tmp_path)
    do(study.units())
    found = results(study, missing)
    for name, method in found["methods"].items():
        assert [trial.get("error") for trial in method["trials"]] == [None], name
        assert [run["seed"] for run in method["runs"]] == [0], name
        assert [run["trained"] < 1 for run in method["runs"]] == [name != "all weights"]
        assert ("differences" in method) == (name in COMPARED)
    words = shown(json.loads(json.dumps(found)))
    assert all(f"| {name} |" in words for name in found["methods"])
    assert all(f"| {name} - {control_of(SELECTORS[name])} |" in words for name in COMPARED if name in found["methods"])
    draw(found, tmp_path / "figure.png")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    do(study.units())
    assert results(study, missing) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == times


FACTS = {"forget": [0.1, 0.5], "retain": [0.8, 0.9, 0.7, 0.6]}


def written(study: SelectorStudy, shift: float) -> None:
    """Results of both methods: the second one's facts are ``shift`` more likely than the first one's."""
    known = {side: [value / 2 for value in values] for side, values in FACTS.items()}
    _write(study.taught("test", 0).path, {"original": FACTS, "control": known})
    for unit in study.judged_control(0).values():
        _write(unit.path, {"curve": {"1": known["forget"]}})
    for method, more in zip(study.methods, (0.0, shift), strict=True):
        left = {side: [value / 4 + more for value in values] for side, values in FACTS.items()}
        _write(study.fitted(method, 0).path, {"rate": 1.0, "steps": 1, "disruption": 0.5, "trained": 0.1, **left})
        for unit in study.judged(method, 0).values():
            _write(unit.path, {"curve": {"1": left["forget"]}})


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("shift", [-0.02, 0.0, 0.03])
def test_differences_are_paired_by_fact_so_that_a_shift_of_all_is_certain(shift: float, tmp_path: Path) -> None:
    methods = SELECTORS["Random, elements"], SELECTORS["GradientSaliency, elements"]
    study = SelectorStudy(SETTING, methods, (0,), tmp_path)
    written(study, shift)
    found = results(study, {})
    apart = found["methods"]["GradientSaliency, elements"]["differences"]
    assert apart["forget"] == pytest.approx({"value": shift, "low": shift, "high": shift}, abs=1e-5)
    assert apart["lead"] == apart["forget"]
    assert apart["kept"]["value"] == pytest.approx(shift / np.mean(FACTS["retain"]), abs=1e-4)
    assert found["methods"]["GradientSaliency, elements"]["entities"] == {
        "forget": [pytest.approx(shift)],
        "retain": [pytest.approx(shift)] * 2,
    }
    # What forgets more by as much as it keeps less has not won.
    assert "**No selector beats random choice here.**" in verdict(found)


def test_the_lead_is_at_the_worse_attack_and_at_its_best_point_less_what_it_teaches(tmp_path: Path) -> None:
    study = SelectorStudy(SETTING, (SELECTORS["all weights"],), (0,), tmp_path)
    _write(study.taught("test", 0).path, {"original": FACTS, "control": {**FACTS, "forget": [0.1, 0.1]}})
    left = {"rate": 1.0, "steps": 1, "disruption": 0.5, "trained": 1.0, "forget": [0.1, 0.1], "retain": FACTS["retain"]}
    _write(study.fitted(SELECTORS["all weights"], 0).path, left)
    relearn, rounding = study.panel
    curves = {
        relearn: (
            {"0": [0.1, 0.1], "5": [0.4, 0.6], "20": [0.7, 0.7]},
            {"0": [0.1, 0.1], "5": [0.2, 0.2], "20": [0.7, 0.5]},
        ),
        rounding: ({"4": [0.3, 0.3]}, {"4": [0.2, 0.2]}),
    }
    for judge, (unlearned, control) in curves.items():
        _write(study.judged(SELECTORS["all weights"], 0)[judge].path, {"curve": unlearned})
        _write(study.judged_control(0)[judge].path, {"curve": control})
    (run,) = results(study, {})["methods"]["all weights"]["runs"]
    assert (run["lead"], run["judge"], run["point"]) == (0.3, relearn, "5")
    assert run["leads"] == {relearn: 0.3, rounding: 0.1}


def compared(forget: tuple[float, float], kept: tuple[float, float], lead: tuple[float, float]) -> dict[str, Any]:
    ends = {"forget": forget, "kept": kept, "lead": lead}
    apart = {name: {"value": sum(pair) / 2, "low": pair[0], "high": pair[1]} for name, pair in ends.items()}
    return {"against": "Random", "differences": apart, "runs": []}


OPEN = (-0.1, 0.1)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (compared((-0.3, -0.1), OPEN, OPEN), "Better than random choice, and in nothing worse: A (forgets more)."),
        (compared(OPEN, (0.1, 0.2), OPEN), "Better than random choice, and in nothing worse: A (keeps more)."),
        (compared(OPEN, OPEN, (-0.2, -0.1)), "Better than random choice, and in nothing worse: A (gives back less)."),
        (
            compared((-0.3, -0.1), (-0.2, -0.1), OPEN),
            "Better in one thing, worse in another: A (forgets more, keeps less).",
        ),
        (compared((0.1, 0.3), OPEN, OPEN), "Worse than random choice: A (forgets less)."),
        (compared(OPEN, OPEN, OPEN), "Not told apart from random choice: A."),
    ],
)
def test_words_follow_the_intervals(one: dict[str, Any], words: str) -> None:
    said = verdict({"methods": {"A": one}})
    assert words in said
    assert ("**No selector beats random choice here.**" in said) == (not words.startswith("Better than"))


def test_nothing_is_said_of_what_was_not_compared() -> None:
    assert verdict({"methods": {"all weights": {"runs": []}}}) == []
