"""A model that still knows, or shuns, what it was to forget gives it away; the control and the holdout are heeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from _membership import probe
from _studies import report_of, status, study

from lightning_unlearn.audits import Membership
from lightning_unlearn.metrics import TokenNLL
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import RobustnessReport, to_page

WHO = [f"author {i // 2}" for i in range(60)]


def membership(shift: float, subject: Any = "unlearned", seed: int = 0, **settings: Any) -> list[Observation]:
    """Of a model whose loss on the forget set is ``shift`` below that on the holdout."""
    generator = np.random.default_rng(seed)
    losses = {"forget": generator.normal(-shift, 1, 60), "holdout": generator.normal(0, 1, 60)}
    found = Membership({"loss": TokenNLL()}, **settings).conclude(
        {split: {"loss": of.tolist()} for split, of in losses.items()}, {split: probe(WHO) for split in losses}
    )
    return [Observation(**{**vars(o), "subject": subject, "step": 9 if subject == "unlearned" else 0}) for o in found]


def said(report: RobustnessReport) -> str:
    (gate,) = [gate for gate in report.gates if gate.code == "G11"]
    return gate.reason


@pytest.mark.parametrize(("shift", "word"), [(3.0, "still known"), (-3.0, "shunned, which gives it away as much")])
def test_too_little_and_too_much_unlearning_are_flagged_alike(shift: float, word: str) -> None:
    made = report_of([*study(), *membership(shift)])
    assert status(made, "G11") == ["warning"]
    assert word in said(made)
    assert any(word in warning for warning in made.warnings)
    (row,) = made.summary["membership"]
    assert row["advantage"] > 0.9
    assert row["privleak"] is None  # there is no control
    assert made.recoveries[0].is_verdict  # a warning beside the numbers


def test_a_model_that_gives_nothing_away_passes() -> None:
    made = report_of([*study(), *membership(0.0)])
    assert status(made, "G11") == ["pass"]
    assert made.summary["membership"][0]["found"] == ""


def test_the_control_says_what_is_to_be_expected() -> None:
    """Sets that differ by themselves: the control is at 0.98, too, and at 0.98 nothing is given away."""
    alike = report_of([*study(), *membership(3.0), *membership(3.0, "control")])
    assert status(alike, "G11") == ["pass"]
    apart = report_of([*study(), *membership(0.0), *membership(3.0, "control")])
    assert status(apart, "G11") == ["warning"]
    assert "shunned" in said(apart)
    assert "for the control" in said(apart)
    (row,) = apart.summary["membership"]
    assert row["difference"] == pytest.approx(row["auc"] - row["control"])
    assert row["privleak"] is None  # the control is at 0.98: it would explode


def test_privleak_is_given_with_a_control_and_has_its_sign() -> None:
    known = report_of([*study(), *membership(3.0), *membership(0.0, "control", seed=1)]).summary["membership"][0]
    shunned = report_of([*study(), *membership(-3.0), *membership(0.0, "control", seed=1)]).summary["membership"][0]
    assert known["privleak"] == pytest.approx(-100, abs=10)
    assert shunned["privleak"] == pytest.approx(100, abs=25)


def test_a_holdout_of_another_form_is_named() -> None:
    blind = Observation("blind_auc", "forget_vs_holdout", 0.58, 9, interval=(0.52, 0.64), bounds=(0.0, 1.0))
    chance = Observation("blind_auc", "forget_vs_holdout", 0.52, 9, interval=(0.46, 0.58), bounds=(0.0, 1.0))
    told = [
        any("told from the forget set without any model" in w for w in report_of([*study(), o]).warnings)
        for o in (blind, chance)
    ]
    assert told == [True, False]


def test_reports_without_membership_say_nothing_of_it() -> None:
    made = report_of(study())
    assert status(made, "G11") == []
    assert "membership" not in made.summary


def test_it_is_kept_in_the_report_and_shown_on_its_page() -> None:
    made = report_of([*study(), *membership(-3.0), *membership(0.0, "control")])
    assert RobustnessReport.from_json(made.to_json()) == made
    assert "gives it away as much as if it were known" in to_page(made)


def test_rows_too_few_to_tell_are_no_all_clear() -> None:
    """Five pairs, all told apart: the exact interval holds chance."""
    seen = Observation("membership_auc_loss", "forget", 1.0, 9, scores=[1.0] * 5, interval=(0.478, 1.0), bounds=(0, 1))
    made = report_of([*study(), seen])
    assert status(made, "G11") == ["warning"]
    assert "by 0.500 [-0.022, 0.500]: of so few examples, nobody can tell" in said(made)
    assert made.recoveries[0].is_verdict


def test_a_control_without_a_number_is_no_all_clear() -> None:
    nothing = [
        Observation(**{**vars(o), "value": float("nan"), "scores": [float("nan")] * len(o.scores)})
        for o in membership(0.0, "control")
    ]
    made = report_of([*study(), *membership(0.0), *nothing])
    assert status(made, "G11") == ["warning"]
