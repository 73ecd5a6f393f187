"""The study of TOFU: which rate and which two parts are chosen, what is compared, and what the table says."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _shared_data import DATA
from robustness_parts._criterion import chosen_rate
from robustness_parts._judges import PANELS, curve, known, relearn
from robustness_parts._method import Method, methods
from robustness_parts._recovery import Seen
from robustness_parts._results import results
from robustness_parts._units import do
from scipy.stats import ks_2samp
from tofu_parts._best_two import best_two, together
from tofu_parts._chosen import tofu_study
from tofu_parts._claims import BOUNDS, CLAIMS, Claim
from tofu_parts._differences import all_differences, difference
from tofu_parts._draws import DRAWS, drawn, interval, means, over_seeds
from tofu_parts._measures import TITLES, Run, forgotten, ks, measured
from tofu_parts._results import is_plain, mark_destroyed
from tofu_parts._settings import SETTINGS
from tofu_parts._shown import draw, front, ordered, table
from tofu_parts._study import TOFUStudy
from tofu_parts._world import TOFUWorld, spaced
from torch.testing import assert_close

from lightning_unlearn.audits.tofu._summary import utility_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FILE = BENCHMARKS / "tofu_parts" / "methods.yaml"
NAMES = list(methods(FILE))


def trial(rate: float, lead: float, kept: float = 1.0, steps: int = 30) -> dict[str, Any]:
    return {"rate": rate, "lead": lead, "retain": [0.8 * kept], "original retain": [0.8], "steps": steps}


# What is chosen


@pytest.mark.parametrize(
    ("trials", "rate"),
    [
        ([trial(1.0, 0.3), trial(2.0, 0.1), trial(3.0, 0.2)], 2.0),
        ([trial(1.0, 0.3), trial(2.0, 0.1, kept=0.9), trial(3.0, 0.2)], 3.0),
        ([trial(1.0, 0.3, kept=0.8), trial(2.0, 0.25, kept=0.7)], 1.0),
        ([trial(1.0, 0.3, kept=0.8), trial(2.0, 0.1, kept=0.7)], 2.0),
        ([trial(1.0, 0.3, kept=0.8), trial(2.0, 0.9, steps=0)], 1.0),
        ([trial(1.0, 0.9, steps=0), trial(2.0, 0.9, steps=0)], 1.0),
        ([{"error": "it broke"}, trial(2.0, 0.9)], 2.0),
    ],
    ids=[
        "least lead",
        "of those that keep enough",
        "else what keeps more",
        "or leads so much less",
        "not what did nothing",
        "unless all did nothing",
        "of those that worked",
    ],
)
def test_the_rate_is_chosen_by_lead_and_by_what_is_kept(trials: list[dict[str, Any]], rate: float) -> None:
    assert chosen_rate(trials) == rate


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_the_cpu_fits_are_in_float32_and_results_of_two_devices_are_kept_apart(device: str) -> None:
    setting, other = SETTINGS["bundled"].on(device), SETTINGS["bundled"].on({"cpu": "cuda", "cuda": "cpu"}[device])
    assert setting.precision == {"cpu": "32-true", "cuda": "bf16-mixed"}[device]
    assert setting.numbers() != other.numbers()


def test_in_mixed_precision_attacks_and_looks_are_too_and_results_are_kept_apart() -> None:
    plain, mixed = SETTINGS["bundled"].on("cpu"), SETTINGS["bundled"].on("cpu", "bf16-mixed")
    assert plain.numbers() != mixed.numbers()
    rows, judge = mixed.world("tune").forget[:3], relearn("forget", "full", 1e-3, 2)
    world = replace(mixed.world("tune"), forget=rows)
    network = mixed.start(0)
    seen = {
        name: (known(network, one, rows), curve(network, judge, one, world))
        for name, one in (("f", plain), ("b", mixed))
    }
    for one, other in ((seen["f"][0], seen["b"][0]), *((seen["f"][1][at], seen["b"][1][at]) for at in ("0", "1", "2"))):
        assert one != other
        assert one == pytest.approx(other, rel=0.1)
    # Attacked in one block of autocast, it is the network after each step that is seen.
    assert seen["b"][1]["0"] != seen["b"][1]["2"]


@pytest.mark.parametrize(
    ("trials", "rate"),
    [
        ([trial(1.0, 0.3), trial(2.0, 0.1, kept=0.9)], 2.0),
        ([trial(1.0, 0.3), trial(2.0, 0.1, kept=0.7)], 1.0),
        ([trial(1.0, 0.3, kept=0.8), trial(2.0, 0.9, steps=0), {"error": "it broke"}], 1.0),
    ],
    ids=["a little less is kept", "too little", "not what did nothing"],
)
def test_where_nothing_is_demanded_what_is_kept_is_weighed_against_the_lead(
    trials: list[dict[str, Any]], rate: float
) -> None:
    assert chosen_rate(trials, keep=None) == rate
    others = {"c": [trial(1.0, 0.5)], "d": [trial(1.0, 0.6)]}
    assert best_two({"a": trials, **others}, PARTS, keep=None) == ("a", "c")


PARTS = {"a": "guard", "b": "guard", "c": "attack", "d": "projector"}


@pytest.mark.parametrize(
    ("leads", "pair"),
    [
        ({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}, ("a", "c")),
        ({"a": 0.4, "b": 0.3, "c": 0.1, "d": 0.2}, ("c", "d")),
    ],
    ids=["two guards are not two parts", "the two smallest leads"],
)
def test_the_best_two_differ_in_what_they_change(leads: dict[str, float], pair: tuple[str, str]) -> None:
    assert best_two({name: [trial(1.0, lead)] for name, lead in leads.items()}, PARTS) == pair


def test_one_that_keeps_too_little_is_no_best() -> None:
    trials = {"a": [trial(1.0, 0.0, kept=0.5)], "c": [trial(1.0, 0.3)], "d": [trial(1.0, 0.4)]}
    assert best_two(trials, PARTS) == ("c", "d")


def test_without_two_parts_that_worked_there_is_no_pair() -> None:
    with pytest.raises(ValueError, match="Two methods with different parts should have worked"):
        best_two({"a": [trial(1.0, 0.1)], "b": [trial(1.0, 0.1)], "c": [{"error": "it broke"}]}, PARTS)


def test_two_parts_together_have_both() -> None:
    one = Method("one", {"part": "guard", "unlearn": {"objective": "o"}, "callbacks": ["guard"]})
    other = Method("other", {"part": "attack", "unlearn": {"objective": "o", "under": "relearn"}})
    assert together(one, other) == {"unlearn": {"objective": "o", "under": "relearn"}, "callbacks": ["guard"]}


def test_rows_are_spread_over_all() -> None:
    rows = [{"question": str(number)} for number in range(10)]
    assert [row["question"] for row in spaced(rows, 4)] == ["0", "2", "5", "7"]
    assert spaced(rows, 12) == rows


def test_networks_that_are_taught_other_rows_or_in_another_way_are_other_files(tmp_path: Path) -> None:
    setting = SETTINGS["bundled"]
    world = TOFUWorld([row("a")], [], [row("b")], [], [], [])
    others = [
        {"teach": {**setting.teach, "epochs": 3}},
        {"precision": "32-true"},
        {"worlds": {"test": lambda: replace(world, retain=[row("c")])}},
    ]
    kinds: list[dict[str, Any]] = [{}, {}, *others]
    paths = [
        TOFUStudy(replace(setting, **{"worlds": {"test": lambda: world}, **kind}), (), (0,), tmp_path)._taught(
            "control", "test", 0
        )
        for kind in kinds
    ]
    assert paths[0] == paths[1]
    assert len(set(paths)) == 4


def row(words: str) -> dict[str, str]:
    return {"question": words, "answer": words, "entity": words}


@pytest.mark.parametrize("count", [2, 5])
def test_upgrads_projections_are_the_shortest_that_raise_no_loss(count: int) -> None:
    """By the conditions of Karush, Kuhn and Tucker, and by torchjd's own solver, where it is installed."""
    pytest.importorskip("torchjd")
    from tofu_parts._exact_cone import ExactCone
    from torchjd.linalg import QuadprogProjector

    generator = torch.Generator().manual_seed(count)
    gradients = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    gramian, wanted = gradients @ gradients.T, torch.eye(count, dtype=torch.float64)
    found = ExactCone()(wanted, gramian)
    change, descent = found - wanted, found @ gramian
    assert change.min() >= 0
    assert descent.min() > -1e-9
    assert (change * descent).abs().max() < 1e-9
    assert change.max() > 0.01  # two of these gradients are opposed
    if count == 2 and find_spec("quadprog") is not None:  # five in three dimensions have no inverse, which it needs
        theirs = QuadprogProjector(norm_eps=0.0, reg_eps=0.0)(wanted, gramian)
        assert_close(found @ gradients, theirs @ gradients)


# What is measured


def scores(level: float, count: int = 40, seed: int = 0) -> dict[str, dict[str, list[Any]]]:
    generator = np.random.default_rng(seed)
    of = {
        "token_nll": (level + generator.random(count)).tolist(),
        "truth_ratio": (level + generator.random(count)).tolist(),
        **{name: generator.random(count).tolist() for name in ("answer_probability", "option_probability")},
        **{name: generator.random(count).tolist() for name in ("rouge_l_recall", "extraction_strength")},
    }
    return dict.fromkeys(("forget", "retain", "real_authors", "world_facts"), of)


def run(level: float = 0.5, unlearned: float = 0.2, attacked: float = 0.5, count: int = 40) -> Run:
    flat = {name: [value] * count for name, value in {"original": 0.9, "unlearned": unlearned, "control": 0.1}.items()}
    seen = Seen(
        original=flat["original"],
        before=(flat["unlearned"], flat["control"]),
        unlearned={"0": flat["unlearned"], "20": flat["unlearned"], "100": [attacked] * count},
        control={"0": flat["control"], "20": flat["control"], "100": flat["control"]},
        judged=slice(None),
        counts_steps=True,
    )
    return Run(
        scores=scores(level),
        retained=scores(0.0),
        knows={"forget": flat["unlearned"], "retain": flat["original"], "holdout": flat["control"]},
        judges={"relearn": seen},
        original=flat["original"],
        control=flat["control"],
    )


def test_every_measure_has_a_title_and_draws_around_its_value() -> None:
    found = measured(run())
    assert set(found) == set(TITLES)
    for value, draws in found.values():
        assert draws.shape == (DRAWS,)
        low, high = interval(draws)
        assert low <= value + 1e-9
        assert value <= high + 0.15  # a KS distance of resampled facts is larger
    assert found["distance"][0] == pytest.approx(0.5)
    assert found["membership"][0] == 1.0
    assert found["recovery 20"][0] == pytest.approx(0.0)
    assert found["recovery 100"][0] == pytest.approx(0.3 / 0.7)
    assert found["raw recovery"][0] == pytest.approx(0.3 / 0.7)


def test_raw_recovery_does_not_take_off_what_the_control_learns() -> None:
    one = run()
    taught = {"0": one.control, "20": [0.3] * 40, "100": [0.5] * 40}
    learning = replace(one, judges={"relearn": replace(one.judges["relearn"], control=taught)})
    found = measured(learning)
    assert found["raw recovery"][0] == pytest.approx(0.3 / 0.7)
    assert found["recovery 100"][0] == pytest.approx(0.0)
    assert np.isnan(measured(run(unlearned=0.89))["raw recovery"][0])


def test_model_utility_and_membership_are_those_of_the_package_and_of_pairs_by_hand() -> None:
    generator = np.random.default_rng(3)
    every = {name: generator.random(40).tolist() for name in scores(0.5)["retain"]}
    of = {split: {name: list(np.roll(row, at)) for name, row in every.items()} for at, split in enumerate(scores(0.5))}
    members, others = generator.random(12).round(1).tolist(), generator.random(9).round(1).tolist()
    found = measured(replace(run(), scores=of, knows={**run().knows, "forget": members, "holdout": others}))
    utility = utility_of(of)
    assert utility is not None
    assert found["utility"][0] == pytest.approx(utility.compute().item(), rel=1e-12)
    pairs = [(one > other) + 0.5 * (one == other) for one in members for other in others]
    assert found["membership"][0] == pytest.approx(sum(pairs) / len(pairs))


def test_the_retain_model_is_at_no_distance_and_where_nothing_went_there_is_no_recovery() -> None:
    found = measured(run(level=0.0, unlearned=0.89))
    assert found["distance"][0] == found["ks"][0] == 0.0
    assert forgotten(run(unlearned=0.89)) == pytest.approx(0.0125)
    assert np.isnan(found["recovery 100"][0])


def test_the_distance_between_distributions_is_that_of_scipy() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=30), generator.normal(0.5, size=40)
    assert ks(one, other) == pytest.approx(ks_2samp(one, other).statistic)


def test_draws_are_the_same_for_all_and_cover_the_mean_as_often_as_they_say() -> None:
    assert np.array_equal(drawn("forget", 40), drawn("forget", 40))
    generator = np.random.default_rng(1)
    ends = [interval(means("forget", generator.normal(size=40))) for _ in range(200)]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.98


def test_over_seeds_the_interval_holds_what_seeds_differ_by() -> None:
    draws = {seed: np.full(DRAWS, float(seed)) for seed in (0, 1, 2)}
    assert over_seeds(draws, [0, 1, 2]).mean() == pytest.approx(1.0, abs=0.05)
    assert interval(over_seeds(draws, [0, 1, 2])) == (0.0, 2.0)
    assert interval(over_seeds(draws, [1])) == (1.0, 1.0)


# What is compared


def of_facts(mean: float, seed: int = 0, wiggle: float = 0.0) -> dict[int, Any]:
    """A measure of three seeds whose facts differ much, and alike for all networks."""
    generator = np.random.default_rng(7)
    found = {}
    for number in range(3):
        facts = generator.normal(0.0, 1.0, size=40) + mean
        facts = facts + wiggle * np.random.default_rng([seed, number]).normal(size=40)
        found[number] = (float(facts.mean()), means("forget", facts))
    return found


def test_pairing_by_seed_and_fact_finds_a_small_difference() -> None:
    draws = {"one": of_facts(0.1), "other": of_facts(0.0)}
    found = difference(draws, "one", "other")
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.excludes_zero
    apart = [interval(over_seeds({s: d for s, (_, d) in of.items()}, [0, 1, 2])) for of in draws.values()]
    assert apart[0][0] < apart[1][1]  # alone, the intervals overlap


def test_two_that_differ_by_chance_are_not_told_apart() -> None:
    draws = {str(number): of_facts(0.0, number, wiggle=1.0) for number in range(6)}
    found = all_differences(draws, list(draws))
    assert len(found) == 15
    assert np.mean([each.excludes_zero for each in found]) < 0.3


def test_what_is_not_there_is_not_compared() -> None:
    nothing = {seed: (float("nan"), np.full(DRAWS, np.nan)) for seed in range(3)}
    assert difference({"one": of_facts(0.0), "other": nothing}, "one", "other") is None
    assert difference({"one": of_facts(0.0)}, "one", "other") is None


@pytest.mark.parametrize(
    ("means_", "verdict"),
    [
        ((1.0, 0.0, 0.0), "held"),
        ((1.0, 0.0, 2.0), "did not hold"),
        ((1.0, 0.0, 1.0), "undecided"),
        ((1.0, 0.0), "not asked"),
    ],
)
def test_a_claim_holds_if_every_interval_says_so(means_: tuple[float, ...], verdict: str) -> None:
    measured_ = {name: of_facts(mean, seed, 0.5) for seed, (name, mean) in enumerate(zip("abc", means_, strict=False))}
    claim = Claim("a is more than b and c", "nobody", "utility", "a", ("b", "c"), more=True)
    assert claim.checked({"utility": measured_})["verdict"] == verdict


def test_a_share_of_another_is_a_bound() -> None:
    of = {"GA": of_facts(5.0), "original": of_facts(100.0)}
    less = Claim("GA leaves less than a tenth", "nobody", "utility", "GA", ("original",), more=False, share=0.1)
    assert less.checked({"utility": of})["verdict"] == "held"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.words)
def test_a_published_claim_is_about_what_is_run_and_measured(claim: Claim) -> None:
    assert claim.measure in TITLES
    assert {claim.one, *claim.others} <= {*NAMES, "original"}
    assert claim.source


@pytest.mark.parametrize(
    ("ends", "verdict"), [((0.6, 0.9), "held"), ((0.1, 0.4), "did not hold"), ((0.4, 0.9), "undecided")]
)
def test_a_bound_holds_if_all_methods_are_above_it(ends: tuple[float, float], verdict: str) -> None:
    values: dict[str, Any] = {"a": {"raw recovery": [0.9, 0.8, 1.0]}, "b": {"raw recovery": [0.5, *ends]}}
    values["forgot nothing"] = {"raw recovery": [None, None, None]}
    assert BOUNDS[0].checked(values, ["a", "b", "forgot nothing", "not run"])["verdict"] == verdict


# What is shown, and all of it in little


def shown(name: str, distance: float, **more: Any) -> dict[str, Any]:
    run_ = {
        "tofu": {"forget_quality": 1e-9},
        "worst": {"20": None, "100": {"judge": "nf4"}},
        **dict.fromkeys(("disruption", "rate", "steps", "fit_s", "peak_gib"), 1.0),
    }
    around = {measure: [0.5, 0.4, 0.6] for measure in TITLES} | {"distance": [distance, 0.0, 1.0]}
    cost = {"step_s": 2.04, "peak_gib": 1.5}
    of = {"control": False, "destroyed": False, "runs": [run_], "intervals": around, "failed": {}, "cost": cost}
    return {name: {**of, **more}}


def test_a_plain_method_has_no_part_that_is_to_make_it_last() -> None:
    plain = [method.name for method in methods(FILE).values() if is_plain(method)]
    assert plain == ["GA", "GradDiff", "NPO", "SimNPO", "IdkDPO", "RMU", "UNDIAL", "WGA", "JensUn"]


def test_the_front_is_of_whole_methods_that_none_betters_in_both() -> None:
    points = {"a": (0.9, 0.5), "b": (0.8, 0.2), "behind": (0.7, 0.3), "c": (0.6, 0.1), "nothing gone": (1.0, None)}
    networks: dict[str, Any] = {}
    for name, (retain, recovery) in points.items():
        networks |= shown(name, 0.0)
        networks[name]["intervals"] |= {"retain": [retain, 0.0, 1.0], "recovery 100": [recovery, 0.0, 1.0]}
    networks |= shown("control", 0.0, control=True) | shown("broken", 0.0, destroyed=True)
    for name in ("control", "broken"):
        networks[name]["intervals"] |= {"retain": [1.0, 1.0, 1.0], "recovery 100": [0.0, 0.0, 0.0]}
    assert front(networks, "recovery 100") == [(0.9, 0.5), (0.8, 0.2), (0.6, 0.1)]
    assert front({}, "recovery 100") == []


def test_controls_of_the_published_table_behave() -> None:
    networks = json.loads((BENCHMARKS / "results" / "tofu_smollm2.json").read_text())["networks"]
    told = {name: [run_["tofu"]["forget_quality"] for run_ in of["runs"]] for name, of in networks.items()}
    assert set(told["retain-only"]) == {1.0}
    assert max(told["original"]) < 0.05
    assert networks["retain-only"]["intervals"]["recovery 100"] == [0.0, 0.0, 0.0]
    assert networks["retain-only"]["intervals"]["distance"] == [0.0, 0.0, 0.0]
    for name in ("original", "noise of equal norm"):
        assert networks[name]["intervals"]["recovery 100"] == [None, None, None]
        assert max(run_["forgotten"] for run_ in networks[name]["runs"]) < 0.05
    assert [name for name, of in networks.items() if of["destroyed"]] == ["ascent to collapse"]


def test_destroyed_is_who_has_lost_what_must_stay_whatever_the_utility_says() -> None:
    networks = {
        name: {"intervals": {"retain": [retain, 0.0, 1.0], "utility": [utility, 0.0, 1.0]}}
        for name, retain, utility in (("original", 0.98, 0.3), ("guarded", 0.9, 0.0), ("broken", 0.4, 0.3))
    } | {"unfinished": {"intervals": {}}}
    mark_destroyed(networks)
    assert [of["destroyed"] for of in networks.values()] == [False, False, True, None]


def test_the_table_shows_the_nearest_first_then_controls_and_marks_what_is_destroyed(tmp_path: Path) -> None:
    networks = shown("far", 0.9, destroyed=True) | shown("near", 0.1) | shown("noise", 0.0, control=True, cost=None)
    networks |= shown("broken", 0.0, control=True)
    networks["broken"]["intervals"] |= {"distance": [None, None, None]}
    networks |= {"unfinished": {**networks["near"], "runs": [], "failed": {"fit, seed 0": "it broke"}}}
    found = {"one": "near", "other": "NPO", "value": -0.3, "low": -0.4, "high": -0.2, "share": 1.0}
    claim = {"claim": "c", "source": "s", "measure": "ks", "verdict": "did not hold", "differences": [found]}
    results = {
        "networks": networks,
        "numbers": {"draws": 10, "recovery needs": 0.05, "destroyed below": 0.5},
        "best two": ["a", "b"],
        "differences": {"distance": [found, {**found, "one": "NPO", "other": "far"}]},
        "claims": [claim],
        "skipped": {"gone": "no such part"},
        "hours": {"fit": 2.04, "asked": 0.5, "best": 0.0},
    }
    assert list(ordered(results)) == ["near", "far", "noise", "broken"]
    draw({**results, "setting": "little"}, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size
    text = table(results)
    assert "| far (destroyed) | 1e-09 (1e-09 to 1e-09) |" in text
    assert "| gated | gated | - |" in text
    assert text.splitlines()[2].endswith("| 1 | 2.0 | 1.5 |")
    assert text.splitlines()[4].endswith("| 1 | - | - |")
    assert "Processes worked 2.5 hours, beside what else ran: fit 2.0, asked 0.5." in text
    assert "below, near -0.30 (-0.40 to -0.20). Above, far +0.30 (+0.20 to +0.40)" in text
    assert "**did not hold**: c (s)" in text
    assert "Not run: gone (no such part)." in text
    assert "Not run: unfinished (fit, seed 0: it broke)." in text


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
@pytest.mark.filterwarnings("ignore")  # as `prepare` does
def test_its_networks_are_judged_by_further_attackers_without_being_made_again(tmp_path: Path) -> None:
    asked = argparse.Namespace(
        model="bundled", device="cpu", precision=None, methods=["GA", "NPO"], seeds=[0], folder=tmp_path
    )
    further = {"int8": PANELS["beside"]["int8"], "half": relearn("half", "full", 1e-3, 2)}
    study, missing = tofu_study(asked, further)
    do(study.units())
    assert not missing
    assert not list(tmp_path.rglob("asked-*"))
    assert not list(tmp_path.rglob("GA-*/judged-*"))  # of the two they see NPO alone
    again, _ = tofu_study(asked)
    npo = next(method for method in again.methods if method.name == "NPO")
    assert all(unit.is_done for unit in (*again.trials(npo), again.fitted(npo, 0), again.judged(npo, 0)["nf4"]))
    found = results(study, missing)["methods"]
    (run_,) = found["NPO"]["runs"]
    assert set(run_["judges"]) == {"relearn full", "relearn adapter", "int4, groups of 32", "nf4", "int8", "half"}
    assert run_["failed"] == {}
    assert found["GA"]["runs"] == []


def tofu(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / "tofu.py"), *arguments, "--model", "bundled", "--seeds", "0"]
    command += ["--methods", "NPO", "SimNPO", "--folder", str(folder), "--results", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def told(folder: Path) -> dict[str, Any]:
    """The results but for times, memory, and where the run stood."""
    finished(tofu("table", folder=folder))
    found = json.loads((folder / "tofu_bundled.json").read_text())
    for network in found["networks"].values():
        for run_ in network["runs"]:
            run_.update(fit_s=None, peak_gib=None)
    return {name: found[name] for name in ("networks", "differences", "claims")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (DATA / "tofu").is_dir(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
def test_a_study_that_was_killed_and_shared_gives_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert "(0 units left" not in finished(tofu("estimate", folder=whole))
    for stage, there in (("prepare", "taught-test*"), ("unlearn", "fit-*"), ("audit", "judged-*")):
        assert not list(whole.rglob(f"{there}.json")), stage
        finished(tofu(stage, folder=whole))
        assert list(whole.rglob(f"{there}.json")), stage
    killed = tofu("audit", folder=broken)
    while len(list(broken.rglob("*.json"))) < 9:  # among the fits
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # and closes its pipe
    two = [tofu("audit", folder=broken) for _ in range(2)]
    for process in two:
        finished(process)
    expected = told(whole)
    assert [len(expected["networks"][name]["runs"]) for name in ("NPO", "original", "ascent to collapse")] == [1, 1, 1]
    assert expected["differences"]["distance"]
    assert {claim["verdict"] for claim in expected["claims"]} > {"not asked"}
    assert told(broken) == expected
