"""The first sentence: true, and not flattering, to a reader who never saw the page."""

from dataclasses import replace

import numpy as np
import pytest
from _studies import attacked, control, observed, report_of, specificity, study


def test_an_attack_that_breaks_the_model_leads_all_the_same_and_names_its_price():
    made = report_of([*study(back=(0.2,)), *attacked("wreck", (0.75,), left=0.2, family="noise")])
    assert made.summary["worst"] == {"attack": "wreck", "point": 1, "unit": "step"}
    said = made.summary["verdict"]
    # (0.75 - 0.1) / (0.8 - 0.1) and (0.8 - 0.2) / 0.8, by hand
    assert "wreck at step 1, brings back 92.9 % [" in said
    assert "That attack costs the rest of the model most of its retain probability (75 %)." in said


def test_the_worst_case_is_over_all_points_not_among_those_that_leave_a_working_model():
    observations = study(back=(0.2, 0.6))
    observations[-1] = observed(0.3, 9, "retain", attack="relearn", point=2, unit="step")
    made = report_of(observations)
    assert [recovery.worst for recovery in made.recoveries] == [False, True]
    assert made.summary["worst"]["point"] == 2


def test_a_model_that_says_anything_is_excluded_and_named_first():
    observations = [*study(back=(0.2,)), *attacked("wreck", (0.75,), left=0.2, family="noise")]
    observations += [specificity(0.9, "relearn"), specificity(0.5, "wreck")]
    made = report_of(observations)
    assert made.summary["worst"]["attack"] == "relearn"
    assert made.warnings[0].startswith("wreck at step 1 brought back more than the verdict says, 92.9 % [")
    assert "not above chance (0.5): the right answer is not ahead of others'" in made.warnings[0]


def test_if_every_attack_makes_the_model_say_anything_the_number_is_said_beside_it():
    made = report_of([*study(back=(0.4,)), specificity(0.5, "relearn")])
    assert made.summary["worst"] is None
    assert made.summary["verdict"].startswith("No attack of an adversary that was tried puts the right answer ahead")
    assert "at most 42.9 % [" in made.summary["verdict"]


def test_unmeasured_specificity_excludes_nothing_and_is_said():
    made = report_of(study())
    assert made.summary["worst"]["attack"] == "relearn"
    assert any(said.startswith("Specificity was not measured with an interval") for said in made.warnings)
    measured = report_of([*study(), specificity(0.9, "relearn")])
    assert not any("Specificity" in said for said in measured.warnings)


def test_a_deployment_has_a_sentence_of_its_own_and_never_leads():
    made = report_of([*study(back=(0.2,)), *attacked("int4", (0.7,), family="quant")])
    assert made.summary["worst"]["attack"] == "relearn"
    assert made.summary["worst_deployment"]["attack"] == "int4"
    assert "relearning" in made.summary["verdict"]
    assert "int4" not in made.summary["verdict"]
    assert made.summary["deployment"].startswith("The worst deployment that was tried, int4 at step 1, brings back")


def test_a_deployment_that_breaks_the_model_is_excused_and_named():
    broken = attacked("int2", (0.7,), left=0.2, family="quant")
    made = report_of([*study(back=(0.2,)), *attacked("int8", (0.15,), family="quant"), *broken])
    assert made.summary["worst_deployment"]["attack"] == "int8"
    assert made.warnings[0].startswith("int2 at step 1 brought back more")


def test_what_was_not_tried_is_said():
    adversary, deployment = report_of(study()), report_of(study(family="quant"))
    assert adversary.summary["deployment"] == "No deployment (rounding, pruning, merging) was tried."
    assert deployment.summary["verdict"].startswith("No attack of an adversary (such as relearning) was tried")
    assert deployment.summary["worst"] is None


def test_without_a_control_the_raw_number_leads_and_says_so():
    said = report_of(study()).summary["verdict"]
    assert "No control: part of this may be what the attack taught anew." in said
    assert "beyond" not in said


def test_with_a_control_both_numbers_stand_in_the_sentence():
    said = report_of([*study(back=(0.4,)), *control(0.3)]).summary["verdict"]
    assert "brings back 42.9 % [" in said  # (0.4 - 0.1) / 0.7
    assert "14.3 % [" in said  # ((0.4 - 0.1) - (0.3 - 0.1)) / 0.7
    assert "is beyond what the same attack teaches a model that never knew" in said
    assert "No control" not in said


def test_a_control_changes_no_raw_number():
    without, controlled = report_of(study(back=(0.4,))), report_of([*study(back=(0.4,)), *control(0.3)])
    kept = {"adjusted": None, "kappa": None}
    assert [replace(r, **kept) for r in controlled.recoveries] == [replace(r, **kept) for r in without.recoveries]
    assert [level for level in controlled.levels if level.model != "control"] == without.levels


def test_the_control_decides_which_attack_leads_and_the_largest_raw_number_is_still_said():
    # "relearn" brings back more, but teaches nearly all of it; "reveal" teaches nothing
    observations = [*study(back=(0.7,)), *attacked("reveal", (0.4,), family="prompt")]
    observations += [*control(0.65), *control(0.1, "reveal")[1:]]
    made = report_of(observations)
    assert made.summary["worst"]["attack"] == "reveal"
    assert (
        "With nothing taken off for a control, 1 step of relearning brings back most: 85.7 % ["
        in made.summary["verdict"]
    )


def test_the_adjusted_worst_is_the_largest_difference_of_differences():
    generator = np.random.default_rng(0)
    levels, taught = generator.uniform(0.2, 0.7, 5), generator.uniform(0.1, 0.5, 5)
    observations = [*study(back=tuple(levels)), observed(0.1, 0, subject="control")]
    for point, level in enumerate(taught, start=1):
        observations.append(observed(level, 0, subject="control", attack="relearn", point=point, unit="step"))
    expected = 1 + int(np.argmax(levels - taught))
    assert report_of(observations).summary["worst"]["point"] == expected


def test_original_and_unlearned_are_told_apart_by_subject_even_at_one_step():
    at_once, later = report_of(study(step=0, at=0)), report_of(study())
    assert [r.rho for r in at_once.recoveries] == [r.rho for r in later.recoveries]
    assert {level.model: level.interval.value for level in at_once.levels if level.split == "forget"} == pytest.approx(
        {"original": 0.8, "unlearned": 0.1}
    )
    assert at_once.summary["worst"] == later.summary["worst"]


def test_attacks_on_the_original_are_no_attacks_on_the_unlearned_model():
    early = [observed(0.79, 0, subject="original", attack="early", family="relearn", point=1, unit="step")]
    made = report_of([*early, *study()])
    assert {recovery.attack for recovery in made.recoveries} == {"relearn"}


def test_a_third_split_is_shown_and_changes_nothing_else():
    step = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}
    near = [observed(0.7, 0, "neighbours", subject="original"), observed(0.6, 9, "neighbours")]
    made = report_of([*study(), *near, observed(0.5, 9, "neighbours", **step)])
    found = {level.model: level.interval.value for level in made.levels if level.split == "neighbours"}
    assert found == pytest.approx({"original": 0.7, "unlearned": 0.6})
    (recovery,) = made.recoveries
    assert recovery.others["neighbours"].value == pytest.approx(0.5)
    assert replace(recovery, others={}) == report_of(study()).recoveries[0]
    alone = report_of(study()).summary
    assert {k: v for k, v in made.summary.items() if k != "over_time"} == {
        k: v for k, v in alone.items() if k != "over_time"
    }
    for what in ("retention", "transfer"):  # with rows of its own
        of_others = [row for row in made.summary["over_time"][what] if "neighbours" not in str(row)]
        assert of_others == alone["over_time"][what]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (0.8, "That attack costs the rest of the model nothing: its retain probability does not fall."),
        (0.9, "That attack costs the rest of the model nothing"),
        (0.796, "costs the rest of the model next to nothing of its retain probability (0.5 %)"),
        (0.4, "costs the rest of the model about half of its retain probability (50 %)"),
        (0.02, "costs the rest of the model nearly all of its retain probability (98 %)"),
    ],
)
def test_the_price_is_said_in_words_and_as_a_number(left, words):
    assert words in report_of(study(left=left)).summary["verdict"]


def test_a_price_that_nobody_measured_is_said_to_be_unknown():
    observations = [o for o in study() if not (o.attacked and o.split == "retain")]
    assert (
        "What that attack costs the rest of the model was not measured." in report_of(observations).summary["verdict"]
    )


def test_a_point_without_a_finite_number_never_leads_and_is_named():
    def breaks(o):
        return replace(o, value=float("nan"), scores=[], entities=[]) if o.point == 2 and o.split == "forget" else o

    made = report_of([breaks(o) for o in study(back=(0.4, 0.5))])
    assert made.summary["worst"]["point"] == 1
    assert any("not a finite number under 2 steps of relearning" in said for said in made.warnings)
