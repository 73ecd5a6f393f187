import math
from dataclasses import replace

import pytest

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import assess

WHO = [f"author {index // 2}" for index in range(24)]
WIGGLE = [0.01 * (index % 3 - 1) for index in range(24)]


def look(level, step, split="forget", **other):
    scores = [level + wiggle for wiggle in WIGGLE]
    shared = {"bounds": (0.0, 1.0), "entities": WHO, **other}
    return Observation("probability", split, sum(scores) / len(scores), step, scores=scores, **shared)


def study(forget=(0.8, 0.1), retain=(0.8, 0.8), back=(0.4,), left=0.8, step=9, at=9):
    """Original, unlearned, and an attack whose points bring knowledge back to the levels ``back``."""
    looks = [look(forget[0], 0), look(retain[0], 0, "retain"), look(forget[1], step), look(retain[1], step, "retain")]
    for point, level in enumerate(back, start=1):
        attack = {"attack": "relearn", "family": "relearn", "point": point, "unit": "step"}
        looks += [look(level, at, **attack), look(left, at, "retain", **attack)]
    return looks


def report(looks, **options):
    return assess(looks, draws=200, **{"restored": True, **options})


def status(made, code):
    return [gate.status for gate in made.gates if gate.code == code]


def test_a_sound_study_passes_every_gate_but_the_missing_control():
    made = report(study())
    assert {gate.code: gate.status for gate in made.gates} == {
        "G1": "pass",
        "G2": "pass",
        "G3": "pass",
        "G4": "warning",
        "G5": "pass",
        "G6": "pass",
    }
    assert made.recoveries[0].is_verdict
    assert made.recoveries[0].rho.value == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("looks", "options", "code", "reason"),
    [
        (study(forget=(0.8, 0.76)), {}, "G1", "unlearning removed 0.040"),
        (study(forget=(0.1, 0.8)), {}, "G1", "the interval should exclude 0"),
        (study(retain=(0.8, 0.6), left=0.6), {}, "G2", "0.75 of the original's; at least 0.8 is needed"),
        (study(left=0.7), {}, "G3", "0.87 of the unlearned model's; at least 0.95 is needed"),
        (study(at=5), {}, "G5", "run at step 5; the last look at the model was at step 9"),
        (study(), {"restored": False}, "G6", "weights differ after an attack"),
    ],
    ids=["no gap", "wrong way", "unlearning broke it", "attack broke it", "another model", "not restored"],
)
def test_a_failing_gate_turns_the_number_grey_with_its_reason_and_keeps_it(looks, options, code, reason):
    made = report(looks, **options)
    (recovery,) = made.recoveries
    assert "fail" in status(made, code)
    assert not recovery.is_verdict
    assert any(said.startswith(code) and reason in said for said in recovery.reasons)
    assert math.isfinite(recovery.rho.value)
    assert made.summary["worst"] is None
    assert made.summary["verdict"].startswith("No verdict")


@pytest.mark.parametrize(
    ("retain", "left", "passes"),
    [((0.8, 0.65), 0.65, True), ((0.8, 0.63), 0.63, False), ((0.8, 0.8), 0.77, True), ((0.8, 0.8), 0.75, False)],
)
def test_utility_gates_sit_at_their_bounds(retain, left, passes):
    assert report(study(retain=retain, left=left)).recoveries[0].is_verdict is passes


def test_without_scores_there_is_no_interval_and_so_no_verdict():
    looks = [replace(look, scores=[], entities=[]) for look in study()]
    made = report(looks)
    assert made.recoveries[0].rho.value == pytest.approx(3 / 7)
    assert status(made, "G1") == ["unknown"]
    assert not made.recoveries[0].is_verdict


def test_without_a_retain_set_nobody_knows_whether_the_model_works():
    made = report([look for look in study() if look.split == "forget"])
    assert status(made, "G2") == status(made, "G3") == ["unknown"]
    assert not made.recoveries[0].is_verdict


def test_of_a_single_model_levels_are_shown_and_nothing_is_claimed():
    made = report([look for look in study(step=0, at=0) if look.attacked or look.estimate != 0.1])
    assert status(made, "G1") == ["unknown"]
    assert made.recoveries[0].forget.value == pytest.approx(0.4)
    assert made.summary["verdict"].startswith("No verdict")


def test_without_any_attack_the_report_says_so():
    made = report(study(back=()))
    assert made.recoveries == []
    assert made.summary["verdict"].startswith("No attack was run")


def test_the_worst_point_is_the_one_that_brought_back_most():
    made = report(study(back=(0.2, 0.6, 0.4)))
    assert [recovery.worst for recovery in made.recoveries] == [False, True, False]
    assert made.summary["worst"] == {"attack": "relearn", "point": 2, "unit": "step"}


def test_a_point_that_broke_the_model_is_not_the_worst():
    looks = study(back=(0.2, 0.6))
    looks[-1] = look(0.3, 9, "retain", attack="relearn", point=2, unit="step")
    made = report(looks)
    assert [(recovery.worst, recovery.is_verdict) for recovery in made.recoveries] == [(True, True), (False, False)]


def test_a_grey_number_that_outdoes_the_verdict_is_said_first():
    looks = study(back=(0.2, 0.6))
    looks[-1] = look(0.3, 9, "retain", attack="relearn", point=2, unit="step")
    made = report(looks)
    assert made.warnings[0].startswith("relearn at step 2 brought back more than the verdict says, 71.4 % [")
    assert "G3: retain probability is 0.37" in made.warnings[0]
    assert not any("brought back more" in warning for warning in report(study(back=(0.2, 0.6))).warnings)


def test_a_metric_where_less_means_more_knowledge_tells_the_same_story():
    def flip(look):
        scores = [1 - score for score in look.scores]
        return replace(look, scores=scores, value=sum(scores) / len(scores), higher_means_known=False)

    made, flipped = report(study()), report([flip(look) for look in study()], utility="probability")
    assert flipped.recoveries[0].rho.value == pytest.approx(made.recoveries[0].rho.value)
    assert flipped.recoveries[0].rho.low == pytest.approx(made.recoveries[0].rho.low)
    assert status(flipped, "G1") == ["pass"]
    assert flipped.recoveries[0].is_verdict


@pytest.mark.parametrize(("loss", "passes"), [(0.15, True), (0.4, False)])
def test_a_loss_counts_as_utility_by_its_likelihood(loss, passes):
    # e^-0.15 = 0.86 and e^-0.4 = 0.67 of the likelihood are left
    shared = {"higher_means_known": False, "bounds": None}
    looks = [look(0.1, 0, **shared), look(2.0, 9, **shared), look(1.0, 9, attack="a", **shared)]
    looks += [look(0.1, 0, "retain", **shared), look(0.1 + loss, 9, "retain", **shared)]
    looks += [look(0.1 + loss, 9, "retain", attack="a", **shared)]
    assert report(looks).recoveries[0].is_verdict is passes


def test_a_control_is_attacked_too_and_what_it_learns_is_taken_off():
    control = [
        look(0.1, 0, subject="control"),
        look(0.3, 0, subject="control", attack="relearn", point=1, unit="step"),
    ]
    made = report([*study(back=(0.4,)), *control])
    (recovery,) = made.recoveries
    assert status(made, "G4") == ["pass"]
    assert not any("No control" in warning for warning in made.warnings)
    assert recovery.rho.value == pytest.approx(3 / 7)
    assert recovery.adjusted.value == pytest.approx(1 / 7)
    assert recovery.shown is recovery.adjusted
    assert recovery.kappa == pytest.approx(3 / 7)
    assert "beyond what it taught a control" in made.summary["verdict"]


def test_a_missing_control_is_a_visible_warning():
    assert any(warning.startswith("No control for relearn") for warning in report(study()).warnings)


def test_a_floor_says_what_a_model_that_never_knew_would_score():
    assert report(study(), floors={"probability": 0.05}).recoveries[0].kappa == pytest.approx(0.35 / 0.75)
    assert report(study()).recoveries[0].kappa is None


def test_the_later_of_two_looks_at_the_same_thing_counts():
    looks = [*study(back=(0.4,)), look(0.6, 9, attack="relearn", point=1, unit="step")]
    assert report(looks).recoveries[0].forget.value == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("looks", "options", "warning"),
    [
        (study(), {"restored": None}, "Nobody compared the weights"),
        ([replace(look, entities=[]) for look in study()], {}, "treated as independent"),
        ([replace(look, entities=[str(i % 3) for i in range(24)]) for look in study()], {}, "Only 3 entities"),
        ([replace(look, value=0.0) for look in study()], {}, "not the mean of its scores"),
        ([replace(look, step=look.step + 1) for look in study()], {}, "The first look at the model was at step 1"),
        (study(), {}, "One training run"),
    ],
    ids=["unchecked", "no entities", "few entities", "another mean", "late start", "one seed"],
)
def test_limits_are_said(looks, options, warning):
    assert any(warning in said for said in report(looks, **options).warnings)


def test_the_headline_is_a_bounded_metric_where_more_means_more_knowledge():
    nll = [replace(look, metric="nll", bounds=None, higher_means_known=False) for look in study()]
    assert report([*nll, *study()]).summary["headline_metric"] == "probability"
    assert report([*nll, *study()], headline="nll").summary["headline_metric"] == "nll"
    assert report(nll).summary["headline_metric"] == "nll"
