"""What failed stands in the report, and never reads as if it had been withstood."""

from __future__ import annotations

import html
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from _studies import attacked, control, observed, report_of, status, study
from rich.console import Console

from lightning_unlearn.observation import Failure
from lightning_unlearn.report import RobustnessReport, print_table, to_page

UNLUCKY = Failure(
    "RuntimeError",
    "out of <b>luck</b>",
    attack="unlucky",
    family="relearn",
    unit="step",
    step=9,
    attack_config={"lr": 7},
)
ROUNDING = replace(UNLUCKY, attack="int3", family="quant", unit="bits")
AUDIT = Failure("KeyError", "'label'", audit="Measure", step=9)


def shown(report: RobustnessReport) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_table(report, console)
    return console.export_text()


def everywhere(report: RobustnessReport) -> list[str]:
    return [shown(report), html.unescape(to_page(report)), report.to_json()]


@pytest.mark.parametrize(
    "failure", [UNLUCKY, replace(UNLUCKY, point=2), ROUNDING], ids=lambda f: f"{f.attack} {f.point}"
)
def test_an_attack_that_failed_is_named_with_its_error_in_the_table_on_the_page_and_in_the_json(
    failure: Failure,
) -> None:
    for text in everywhere(report_of(study(), failures=[failure])):
        assert failure.attack in text
        assert "out of <b>luck</b>" in text
    page = to_page(report_of(study(), failures=[failure]))
    assert "<b>luck</b>" not in page  # markup of an error is inert
    assert "not shown" in page


def test_the_json_has_every_field_of_a_failure_and_is_read_back_the_same() -> None:
    report = report_of(study(), failures=[replace(UNLUCKY, point=2), AUDIT])
    again = RobustnessReport.from_json(report.to_json())
    assert again == report
    row = json.loads(report.to_json())["failures"][0]
    assert (row["attack"], row["error"], row["point"], row["attack_config"]) == (
        "unlucky",
        "RuntimeError",
        2,
        {"lr": 7},
    )


@pytest.mark.parametrize(
    ("failure", "family", "key", "sentence"),
    [(UNLUCKY, "noise", "worst", "verdict"), (ROUNDING, "quant", "worst_deployment", "deployment")],
)
def test_no_worst_case_where_one_of_its_kind_failed(failure: Failure, family: str, key: str, sentence: str) -> None:
    sound = report_of(study(family=family))
    assert sound.summary[key] is not None
    failed = report_of(study(family=family), failures=[failure])
    assert failed.summary[key] is None
    assert f"the attack {failure.attack} failed before its first point (RuntimeError:" in failed.summary[sentence]
    assert "so what it would bring back is not shown." in failed.summary[sentence]
    # What was measured is said all the same: recovery (0.4 - 0.1) / (0.8 - 0.1).
    assert "ran to their end" in failed.summary[sentence]
    assert "42.9 %" in failed.summary[sentence]


def test_a_failed_deployment_leaves_the_verdict_on_adversaries_alone() -> None:
    sound, failed = report_of(study()), report_of(study(), failures=[ROUNDING])
    assert failed.summary["verdict"] == sound.summary["verdict"]
    assert failed.summary["worst"] == sound.summary["worst"]
    assert failed.recoveries == sound.recoveries
    assert sorted(status(failed, "G8")) == ["fail"]


def test_points_measured_before_a_failure_are_listed_and_are_no_verdict() -> None:
    both = [*study(back=(0.2,), family="noise"), *attacked("unlucky", (0.3, 0.5))]
    report = report_of(both, failures=[replace(UNLUCKY, point=2)])
    halves = [r for r in report.recoveries if r.attack == "unlucky"]
    assert [round(r.rho.value, 3) for r in halves] == [0.286, 0.571]
    assert not any(r.is_verdict for r in halves)
    assert all("after step 2 (RuntimeError" in reason for r in halves for reason in r.reasons)
    assert [r.is_verdict for r in report.recoveries if r.attack == "noise"] == [True]
    assert report.summary["worst"] is None
    assert "57.1 %" in shown(report)


@pytest.mark.parametrize(
    "options",
    [{"failures": [AUDIT]}, {"run": {"interrupted": "SIGTERM"}}, {"run": {"interrupted": "KeyboardInterrupt"}}],
    ids=["audit", "SIGTERM", "Ctrl-C"],
)
def test_a_failed_audit_and_an_early_end_reach_every_number(options: dict[str, Any]) -> None:
    report = report_of([*study(), *attacked("quant", (0.2,), family="quant")], **options)
    assert not any(recovery.is_verdict for recovery in report.recoveries)
    assert report.summary["worst"] is report.summary["worst_deployment"] is None
    assert "fail" in status(report, "G8")
    assert all(("'label'" if "failures" in options else options["run"]["interrupted"]) in t for t in everywhere(report))


def test_an_early_end_is_the_first_thing_that_the_verdict_says() -> None:
    report = report_of(study(), run={"interrupted": "SIGTERM"})
    assert report.summary["verdict"].startswith("Incomplete: the run was ended before its time by SIGTERM.")


def test_a_failure_of_an_earlier_check_is_said_and_takes_nothing_from_the_verdict() -> None:
    sound, failed = report_of(study()), report_of(study(), failures=[replace(UNLUCKY, attack="relearn", step=3)])
    assert failed.summary == sound.summary
    assert "On the unlearned model at step 3, the attack relearn failed" in " ".join(failed.warnings)


def test_a_failed_control_attack_takes_nothing_off_and_is_said() -> None:
    observations = [*study(), *control(0.2)]
    sound = report_of(observations)
    assert sound.recoveries[0].adjusted is not None
    failure = replace(UNLUCKY, attack="relearn", subject="control", step=0, point=1)
    failed = report_of(observations, failures=[failure])
    assert [recovery.adjusted for recovery in failed.recoveries] == [None]
    assert status(failed, "G4") == ["warning"]
    (gate,) = [gate for gate in failed.gates if gate.code == "G4"]
    assert "on it, the attack relearn failed after step 1 (RuntimeError: out of" in gate.reason
    assert "On the control model at step 0, the attack relearn failed" in " ".join(failed.warnings)
    assert failed.recoveries[0].is_verdict  # the larger, unadjusted number


def test_only_failures_and_no_observation_of_an_attack() -> None:
    nothing = [o for o in study() if not o.attacked]
    report = report_of(nothing, failures=[UNLUCKY])
    assert report.summary["verdict"].startswith("No verdict on an adversary: the attack unlucky failed")
    assert all("not shown" in text for text in everywhere(report)[:2])
    assert "no attack of" not in report.summary["verdict"].lower()


def test_without_any_observation_the_failures_are_still_a_report() -> None:
    report = report_of([], failures=[AUDIT])
    assert all("'label'" in text for text in everywhere(report))


def test_words_say_how_far_it_came() -> None:
    assert UNLUCKY.words.startswith("failed before its first point (")
    assert replace(UNLUCKY, point=2).words.startswith("failed after step 2 (")
    assert replace(UNLUCKY, point=2, audit="Measure").words.startswith("failed at step 2 in the audit Measure (")
    assert replace(ROUNDING, point=3).words.startswith("failed after 3 bits (")
    assert AUDIT.words == "failed (KeyError: 'label')"
    assert observed(0.5, 9).attacked is AUDIT.attacked is False
