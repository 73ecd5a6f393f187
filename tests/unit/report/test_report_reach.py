"""G9: an attack that reached little of a model is no verdict, and what it reached stands in the report."""

from __future__ import annotations

import html
import io
from dataclasses import replace
from typing import Any

import pytest
from _studies import attacked, report_of, status, study
from rich.console import Console

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import RobustnessReport, print_table, to_page


def reaching(share: Any) -> list[Observation]:
    return [replace(o, attack_config={"bits": 4, "share_reached": share}) if o.attacked else o for o in rounded()]


def rounded() -> list[Observation]:
    return study(family="quant")


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, "pass"), (0.97, "pass"), (0.5, "pass"), (0.4999, "fail"), (0, "fail")]
)
def test_half_of_the_weights_have_to_be_reached(share: float, expected: str) -> None:
    made = report_of(reaching(share))
    assert status(made, "G9") == [expected]
    assert made.recoveries[0].is_verdict == (expected == "pass")
    assert ("No verdict on deployments" in made.summary["deployment"]) == (expected == "fail")


def test_the_share_stands_in_the_report_and_on_its_page() -> None:
    made = report_of(reaching(0.4999))
    assert RobustnessReport.from_json(made.to_json()) == made
    page = html.unescape(to_page(made))
    for text in (made.summary["deployment"], page):
        assert "quant reached 49.9 % of the weights; at least 50 % is needed" in text
    assert any("The attack quant left 50.0 % of the weights" in said for said in made.warnings)


def test_of_an_attack_that_reached_all_nothing_is_left_to_say() -> None:
    assert not any("of the weights" in said for said in report_of(reaching(1.0)).warnings)


def test_an_attack_that_does_not_tell_has_no_such_gate() -> None:
    assert status(report_of(rounded()), "G9") == []
    assert status(report_of(reaching("many")), "G9") == []


def test_the_gate_is_of_that_attack_only() -> None:
    other = attacked("int8", (0.3,), family="quant", attack_config={"share_reached": 1.0})
    made = report_of([*reaching(0.2), *other])
    assert [(r.attack, r.is_verdict) for r in made.recoveries] == [("quant", False), ("int8", True)]
    assert made.summary["worst_deployment"]["attack"] == "int8"


@pytest.mark.parametrize("family", ["relearn", "quant", "noise", "merge"])
def test_whatever_the_attack_page_and_terminal_say_which_share_of_each_was_reached(family: str) -> None:
    few = [replace(o, attack_config={"share_reached": 0.07}) if o.attacked else o for o in study(family=family)]
    most = attacked("most", (0.2,), family=family, attack_config={"share_reached": 0.93})
    made = report_of([*few, *most])
    assert {g.attack: g.status for g in made.gates if g.code == "G9"} == {family: "fail", "most": "pass"}
    assert [(r.attack, r.is_verdict) for r in made.recoveries] == [(family, False), ("most", True)]
    out = io.StringIO()
    print_table(made, Console(file=out, width=400, force_terminal=False))
    for text in (html.unescape(to_page(made)), out.getvalue()):
        assert f"{family} reached 7 % of the weights; at least 50 % is needed" in text
        assert "The attack most left 7.0 % of the weights" in text
