import math
from dataclasses import replace

import pytest
from _studies import control, observed, report_of, specificity, status, study

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.render._verdict import verdict


def test_a_sound_study_passes_every_gate_but_the_missing_control_and_specificity():
    made = report_of(study(family="prune"))
    assert {gate.code: gate.status for gate in made.gates} == {
        "G1": "pass",
        "G2": "pass",
        "G3": "pass",
        "G4": "warning",
        "G5": "pass",
        "G6": "pass",
        "G7": "warning",
        "G8": "pass",
    }
    assert made.recoveries[0].is_verdict
    assert made.recoveries[0].rho.value == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    ("observations", "options", "code", "reason"),
    [
        (study(forget=(0.8, 0.76)), {}, "G1", "unlearning removed 0.040"),
        (study(forget=(0.1, 0.8)), {}, "G1", "the interval should exclude 0"),
        (study(retain=(0.8, 0.6), left=0.6), {}, "G2", "0.75 of the original's; at least 0.8 is needed"),
        (study(left=0.7, family="prune"), {}, "G3", "0.87 of the unlearned model's; at least 0.95 is needed"),
        (study(at=5), {}, "G5", "run at step 5; the last observation of the model was at step 9"),
        (study(), {"restored": False}, "G6", "weights differ after an attack"),
    ],
    ids=["no gap", "wrong way", "unlearning broke it", "attack broke it", "another model", "not restored"],
)
def test_a_failing_gate_turns_the_number_grey_with_its_reason_and_keeps_it(observations, options, code, reason):
    made = report_of(observations, **options)
    (recovery,) = made.recoveries
    assert "fail" in status(made, code)
    assert not recovery.is_verdict
    assert any(said.startswith(code) and reason in said for said in recovery.reasons)
    assert math.isfinite(recovery.rho.value)
    assert made.summary["worst"] is made.summary["worst_deployment"] is None
    assert "No verdict" in made.summary["verdict"] + made.summary["deployment"]


@pytest.mark.parametrize(
    ("retain", "left", "passes"),
    [((0.8, 0.65), 0.65, True), ((0.8, 0.63), 0.63, False), ((0.8, 0.8), 0.77, True), ((0.8, 0.8), 0.75, False)],
)
def test_utility_gates_sit_at_their_bounds(retain, left, passes):
    assert report_of(study(retain=retain, left=left, family="quant")).recoveries[0].is_verdict is passes


def test_without_scores_there_is_no_interval_and_so_no_verdict():
    observations = [replace(o, scores=[], entities=[]) for o in study()]
    made = report_of(observations)
    assert made.recoveries[0].rho.value == pytest.approx(3 / 7)
    assert status(made, "G1") == ["unknown"]
    assert not made.recoveries[0].is_verdict


def test_without_a_retain_set_nobody_knows_whether_the_model_works():
    made = report_of([o for o in study(family="merge") if o.split == "forget"])
    assert status(made, "G2") == status(made, "G3") == ["unknown"]
    assert not made.recoveries[0].is_verdict


def test_of_a_single_model_levels_are_shown_and_nothing_is_claimed():
    made = report_of([o for o in study(step=0, at=0) if o.subject != "original"])
    assert status(made, "G1") == ["unknown"]
    assert made.recoveries[0].forget.value == pytest.approx(0.4)
    assert made.summary["verdict"].startswith("No verdict")


def test_without_any_attack_the_report_says_so():
    made = report_of(study(back=()))
    assert made.recoveries == []
    assert made.summary["verdict"].startswith("No attack was run")


def test_the_worst_point_is_the_one_that_brought_back_most():
    made = report_of(study(back=(0.2, 0.6, 0.4)))
    assert [recovery.worst for recovery in made.recoveries] == [False, True, False]
    assert made.summary["worst"] == {"attack": "relearn", "point": 2, "unit": "step"}


def test_a_metric_where_less_means_more_knowledge_tells_the_same_story():
    def flip(o):
        scores = [1 - score for score in o.scores]
        return replace(o, scores=scores, value=sum(scores) / len(scores), higher_means_known=False)

    made, flipped = report_of(study()), report_of([flip(o) for o in study()], utility="probability")
    assert flipped.recoveries[0].rho.value == pytest.approx(made.recoveries[0].rho.value)
    assert flipped.recoveries[0].rho.low == pytest.approx(made.recoveries[0].rho.low)
    assert status(flipped, "G1") == ["pass"]
    assert flipped.recoveries[0].is_verdict


@pytest.mark.parametrize(("loss", "passes"), [(0.15, True), (0.4, False)])
def test_a_loss_counts_as_utility_by_its_likelihood(loss, passes):
    # e^-0.15 = 0.86 and e^-0.4 = 0.67 of the likelihood are left
    shared = {"higher_means_known": False, "bounds": None}
    original = {**shared, "subject": "original"}
    observations = [observed(0.1, 0, **original), observed(2.0, 9, **shared), observed(1.0, 9, attack="a", **shared)]
    observations += [observed(0.1, 0, "retain", **original), observed(0.1 + loss, 9, "retain", **shared)]
    observations += [observed(0.1 + loss, 9, "retain", attack="a", **shared)]
    assert report_of(observations).recoveries[0].is_verdict is passes


def test_a_control_is_attacked_too_and_what_it_learns_is_taken_off():
    made = report_of([*study(back=(0.4,)), *control(0.3)])
    (recovery,) = made.recoveries
    assert status(made, "G4") == ["pass"]
    assert not any("No control" in warning for warning in made.warnings)
    assert recovery.rho.value == pytest.approx(3 / 7)
    assert recovery.adjusted.value == pytest.approx(1 / 7)
    assert recovery.shown is recovery.adjusted
    assert recovery.kappa == pytest.approx(3 / 7)


def test_a_missing_control_is_a_visible_warning():
    assert any(warning.startswith("No control for relearn") for warning in report_of(study()).warnings)


def test_a_floor_says_what_a_model_that_never_knew_would_score():
    assert report_of(study(), floors={"probability": 0.05}).recoveries[0].kappa == pytest.approx(0.35 / 0.75)
    assert report_of(study()).recoveries[0].kappa is None


def test_the_later_of_two_observations_of_the_same_thing_counts():
    observations = [*study(back=(0.4,)), observed(0.6, 9, attack="relearn", point=1, unit="step")]
    assert report_of(observations).recoveries[0].forget.value == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("observations", "options", "warning"),
    [
        (study(), {"restored": None}, "Nobody compared the weights"),
        ([replace(o, entities=[]) for o in study()], {}, "treated as independent"),
        ([replace(o, entities=[str(i % 3) for i in range(24)]) for o in study()], {}, "Only 3 entities"),
        ([replace(o, entities=[str(i % 3) for i in range(24)]) for o in study()], {}, "say nothing of other entities"),
        ([replace(o, entities=[str(i % 6) for i in range(24)]) for o in study()], {}, "Only 6 entities were resampled"),
        ([replace(o, value=0.0) for o in study()], {}, "not the mean of its scores"),
        ([replace(o, step=o.step + 1) for o in study()], {}, "The original was observed at step 1"),
        (study(), {}, "One training run"),
    ],
    ids=["unchecked", "no entities", "few entities", "of these alone", "six", "another mean", "late start", "one seed"],
)
def test_limits_are_said(observations, options, warning):
    assert any(warning in said for said in report_of(observations, **options).warnings)


def test_the_headline_is_a_bounded_metric_where_more_means_more_knowledge():
    nll = [replace(o, metric="nll", bounds=None, higher_means_known=False) for o in study()]
    assert report_of([*nll, *study()]).summary["headline_metric"] == "probability"
    assert report_of([*nll, *study()], headline="nll").summary["headline_metric"] == "nll"
    assert report_of(nll).summary["headline_metric"] == "nll"


@pytest.mark.parametrize(("level", "expected"), [(0.5, "fail"), (0.4, "fail"), (0.501, "fail"), (0.6, "pass")], ids=str)
def test_specificity_has_to_be_above_chance_with_its_whole_interval(level, expected):
    # the interval of 0.501 reaches below 0.5: twelve authors differ by more than that
    made = report_of([*study(), specificity(level, "relearn")])
    assert status(made, "G7") == [expected]
    assert made.recoveries[0].is_verdict is (expected == "pass")


def test_specificity_without_scores_excludes_nothing():
    for level in (0.5, 0.6):
        bare = replace(specificity(level, "relearn"), scores=[], entities=[], value=level)
        made = report_of([*study(), bare])
        assert status(made, "G7") == ["warning"]
        assert made.recoveries[0].is_verdict


def test_rows_too_few_to_tell_are_no_all_clear():
    """Half of the answers are ahead of all others: by chance, or since half of the facts are back?"""
    undecided = specificity(0.5, "relearn")
    undecided = replace(undecided, scores=[float(number // 2 % 2) for number in range(len(undecided.scores))])
    made = report_of([*study(), undecided])
    assert made.recoveries[0].specificity.low < 0.5 < 0.75 <= made.recoveries[0].specificity.high
    assert status(made, "G7") == ["warning"]
    assert made.recoveries[0].is_verdict
    assert any("too few rows to tell" in limit for limit in made.warnings)
    assert verdict(made).tone == verdict(report_of(study())).tone != "held"


def test_specificity_is_a_level_and_a_gate_but_nothing_that_recovers():
    made = report_of(
        [*study(), observed(0.9, 0, metric="specificity", subject="original"), specificity(0.8, "relearn")]
    )
    assert ("specificity", "original") in {(level.metric, level.model) for level in made.levels}
    assert {recovery.metric for recovery in made.recoveries} == {"probability"}
    assert {gate.metric for gate in made.gates if gate.code == "G1"} == {"probability"}
    assert made.recoveries[0].specificity.value == pytest.approx(0.8)


@pytest.mark.parametrize("family", ["quant", "prune", "merge", "relearn", "noise", ""])
def test_only_a_deployment_is_excused_for_breaking_the_model(family):
    made = report_of(study(left=0.1, family=family))
    excused = family in ("quant", "prune", "merge")
    assert status(made, "G3") == (["fail"] if excused else [])
    assert made.recoveries[0].is_verdict is not excused


@pytest.mark.parametrize(("kept", "says_so"), [(0.6, True), (0.79, False)])
def test_that_a_rounding_breaks_the_original_as_well_is_said(kept, says_so):
    how = {"attack": "quant", "family": "quant", "point": 1, "unit": "step", "subject": "original"}
    made = report_of([*study(left=0.5, family="quant"), observed(kept, 0, "retain", **how)])
    (reason,) = (gate.reason for gate in made.gates if gate.code == "G3")
    assert ("the original keeps" in reason) is says_so
    assert ("keeps 0.75 of its own" in reason) is says_so


def test_what_a_run_that_was_ended_never_asked_is_named():
    made = report_of([o for o in study(family="quant") if o.subject == "original" or o.attack != "none"])
    assert [gate.reason for gate in made.gates if gate.code == "G2"] == [
        "the retain set was not asked of the unlearned model"
    ]


def test_an_attack_without_effect_is_no_evidence():
    made = report_of(study(back=(0.1, 0.1)))
    assert status(made, "G10") == ["fail"]
    assert "an attack that does nothing shows nothing" in made.recoveries[0].reasons[-1]
    assert made.summary["verdict"].startswith("No verdict on an adversary")


@pytest.mark.parametrize(("back", "left"), [((0.1, 0.1001), 0.8), ((0.1,), 0.79)], ids=["forget", "retain"])
def test_an_attack_that_changed_anything_at_all_counts(back, left):
    assert status(report_of(study(back=back, left=left)), "G10") == ["pass"]


def test_a_deployment_may_change_nothing():
    made = report_of(study(back=(0.1,), family="quant"))
    assert status(made, "G10") == []
    assert made.recoveries[0].is_verdict


def test_levels_of_layers_are_told_and_recover_nothing():
    layer = {"metric": "probe", "layer": "layers.3"}
    inside = [observed(0.9, 0, subject="original", **layer), observed(0.6, 9, **layer)]
    made = report_of([*study(), *inside, observed(0.7, 9, attack="relearn", point=1, unit="step", **layer)])
    found = {(level.model, level.layer): level.interval.value for level in made.levels if level.metric == "probe"}
    assert found == pytest.approx({("original", "layers.3"): 0.9, ("unlearned", "layers.3"): 0.6})
    assert {recovery.metric for recovery in made.recoveries} == {"probability"}
    assert all(level.layer == "" for level in made.levels if level.metric == "probability")


def test_who_is_judged_by_a_part_is_compared_on_that_part():
    # the second half of the retain set is worth twice as much, before and under the attack: nothing was lost on it
    def uneven(o):
        scores = [score * (1 + (row >= 12)) / 2 for row, score in enumerate(o.scores)]
        return replace(o, scores=scores, value=sum(scores) / len(scores)) if o.split == "retain" else o

    observations = [uneven(o) for o in study(family="quant")]
    part = [o.at(range(12, 24)) if o.attacked else o for o in observations]
    made = report_of(part)
    assert made.recoveries[0].price == pytest.approx(0, abs=1e-9)
    assert status(made, "G3") == ["pass"]
    assert made.recoveries[0].rho.examples == 12


def test_an_auc_is_judged_by_its_own_interval_and_its_scores_are_no_levels_of_it():
    shared = {"metric": "auc", "bounds": (0.0, 1.0), "scores": [3.0, 5.0] * 6}
    how = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}
    made = report_of(
        [
            *study(),
            Observation(split="forget", value=0.9, step=0, subject="original", interval=(0.85, 0.95), **shared),
            Observation(split="forget", value=0.5, step=9, interval=(0.45, 0.55), **shared),
            Observation(split="forget", value=0.7, step=9, interval=(0.6, 0.8), **shared, **how),
        ]
    )
    found = {level.model: level.interval for level in made.levels if level.metric == "auc"}
    assert (found["original"].value, found["original"].low) == (0.9, 0.85)
    (back,) = [recovery for recovery in made.recoveries if recovery.metric == "auc"]
    assert (back.is_verdict, back.rho.value, back.forget.high) == (True, pytest.approx(0.5), 0.8)
    assert back.rho.low < 0.5 < back.rho.high
    assert not any("auc" in warning for warning in made.warnings)
