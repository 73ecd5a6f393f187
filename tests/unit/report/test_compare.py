"""Reports side by side: only the same questions, only attacks in common, and a front that nothing on it is beaten."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_unlearn.observation import Failure, Observation
from lightning_unlearn.report import (
    Comparison,
    RobustnessReport,
    across_seeds,
    assess,
    compare,
    compare_requests,
    print_comparison,
    save_comparison,
)

WHO = ["Ada", "Ada", "Bo", "Bo", "Cy", "Cy"]
SPREAD = [0.04, -0.04, 0.02, -0.02, 0.01, -0.01]


def observed(subject: Any, mean: float, split: str = "forget", **attack: Any) -> Observation:
    scores = [mean + each for each in SPREAD]
    return Observation("probability", split, mean, 9, subject, scores=scores, entities=WHO, bounds=(0, 1), **attack)


def attacked(name: str, mean: float, family: str = "relearn", point: float = 20, **config: Any) -> list[Observation]:
    about = {"attack": name, "family": family, "point": point, "unit": "step", "attack_config": config}
    return [observed("unlearned", mean, **about), observed("unlearned", 0.8, "retain", **about)]


def report(*attacks: list[Observation], kept: float = 0.8, content: str = "a", **about: Any) -> RobustnessReport:
    models = [
        observed("original", 0.9),
        observed("original", 0.8, "retain"),
        observed("unlearned", 0.1),
        observed("unlearned", kept, "retain"),
    ]
    data = {"forget": {"content_hash": content}, "retain": {"content_hash": "b"}}
    return assess([*models, *(o for each in attacks for o in each)], data=data, restored=True, **about)


def rows(comparison: Comparison) -> dict[str, Any]:
    return {row.name: row for row in comparison.rows}


def test_worst_cases_are_of_the_attacks_that_all_have() -> None:
    strong = attacked("hard", 0.7)
    found = compare({"one": report(attacked("soft", 0.3), strong), "other": report(attacked("soft", 0.5))})
    assert found.attacks == [("soft", 20)]
    assert rows(found)["one"].worst.value == pytest.approx(0.25)
    assert rows(found)["other"].worst.value == pytest.approx(0.5)
    assert [row.name for row in found.rows] == ["one", "other"]
    assert any("one: hard left out" in warning for warning in found.warnings)


def test_attacks_of_one_name_and_other_settings_are_not_compared() -> None:
    found = compare(
        {"one": report(attacked("relearn", 0.3, lr=1e-3)), "other": report(attacked("relearn", 0.5, lr=1e-4))}
    )
    assert found.attacks == []
    assert rows(found)["one"].worst is None
    assert "No attack with the same settings is in all reports" in found.warnings[0]


def test_an_attack_that_failed_somewhere_counts_nowhere() -> None:
    """Of the one that failed, what it reached is no verdict; the other would be judged by it alone."""
    prompts = attacked("prompts", 0.15, "prompt")
    broken = [Failure("RuntimeError", "", attack="relearn", family="relearn", unit="step", point=20, step=9)]
    found = compare(
        {
            "whole": report(attacked("relearn", 0.5), prompts),
            "broken": report(attacked("relearn", 0.9), prompts, failures=broken),
        }
    )
    assert found.attacks == [("prompts", 20)]
    assert [row.worst and row.worst.value for row in found.rows] == [pytest.approx(0.0625)] * 2
    assert "relearn failed in broken, and is left out everywhere" in found.warnings[0]
    assert not any("equal settings" in warning for warning in found.warnings)


def by_loss(retain: float) -> RobustnessReport:
    def seen(subject: Any, mean: float, split: str = "forget", **attack: Any) -> Observation:
        scores = [mean + each for each in SPREAD]
        return Observation(
            "loss", split, mean, 9, subject, scores=scores, entities=WHO, higher_means_known=False, **attack
        )

    how: dict[str, Any] = {"attack": "relearn", "family": "relearn", "point": 20, "unit": "step"}
    models = [
        seen("original", 0.1),
        seen("original", 1.0, "retain"),
        seen("unlearned", 5.0),
        seen("unlearned", retain, "retain"),
    ]
    data = {"forget": {"content_hash": "a"}, "retain": {"content_hash": "b"}}
    under = [seen("unlearned", 4.0, **how), seen("unlearned", retain, "retain", **how)]
    return assess([*models, *under], data=data, restored=True)


def test_of_a_loss_less_is_more_that_is_kept() -> None:
    found = rows(compare({"unharmed": by_loss(1.0), "harmed": by_loss(1.2)}))
    assert found["unharmed"].kept == pytest.approx(1.0)
    assert found["harmed"].kept == pytest.approx(1 / 1.2)
    assert (found["unharmed"].on_front, found["harmed"].on_front) == (True, False)


def test_the_front_is_who_nobody_beats_in_both() -> None:
    found = compare(
        {
            "gives little": report(attacked("relearn", 0.2), kept=0.7),
            "keeps much": report(attacked("relearn", 0.5), kept=0.8),
            "beaten": report(attacked("relearn", 0.5), kept=0.7),
            "broken": report(attacked("relearn", 0.1), kept=0.1),  # misses G2: no verdict
        }
    )
    front = {name: row.on_front for name, row in rows(found).items()}
    assert front == {"gives little": True, "keeps much": True, "beaten": False, "broken": False}
    assert rows(found)["keeps much"].kept == pytest.approx(1.0)
    assert rows(found)["broken"].worst is None


def test_what_is_no_verdict_is_on_no_front() -> None:
    found = compare({"one": report(attacked("relearn", 0.2), kept=0.1), "other": report(kept=0.1)})
    assert not any(row.on_front for row in found.rows)


def test_deployments_have_their_own_column() -> None:
    int4 = attacked("int4", 0.6, family="quant")
    row = rows(compare({"one": report(int4, attacked("relearn", 0.3)), "other": report(int4)}))["one"]
    assert row.deployed_attack == "int4, step 20"
    assert row.worst is None  # relearning is not in both


def test_reports_of_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="should be of the same forget examples.*Audit the models on the same data"):
        compare({"one": report(), "other": report(content="other")})


def test_one_report_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="At least two reports"):
        compare({"one": report()})


def test_a_failure_is_said() -> None:
    failed = report(failures=[Failure("RuntimeError", "no memory", attack="relearn", step=9)])
    assert any("other: 1 attacks or audits failed" in w for w in compare({"one": report(), "other": failed}).warnings)


def test_the_files_hold_what_the_terminal_shows(tmp_path: Path) -> None:
    found = compare({"a|b": report(attacked("relearn", 0.3)), "\u202eother": report(attacked("relearn", 0.5))})
    save_comparison(found, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "comparison.html",
        "comparison.json",
        "comparison.md",
        "front.png",
    ]
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    markdown = (tmp_path / "comparison.md").read_text()
    assert "a\\|b" in markdown
    assert "\u202e" not in markdown
    terminal = StringIO()
    print_comparison(found, Console(width=200, file=terminal))
    assert "25.0 %" in terminal.getvalue()
    assert "25.0 %" in markdown


def shown(found: Any, folder: Path) -> dict[str, str]:
    """What a user sees of a comparison, in the terminal and in each file."""
    save_comparison(found, folder)
    terminal = StringIO()
    print_comparison(found, Console(width=300, file=terminal))
    files = {name: (folder / f"comparison.{name}").read_text() for name in ("html", "md")}
    return {**files, "terminal": terminal.getvalue()}


def test_runs_of_one_recipe_are_one_number_over_seeds(tmp_path: Path) -> None:
    runs = {f"npo {n}": report(attacked("relearn", 0.3 + 0.1 * n), attacked("int4", 0.2, "quant")) for n in range(3)}
    found = compare({**runs, "other": report(attacked("relearn", 0.5))}, recipes={"npo": list(runs)})
    assert found.attacks == [("relearn", 20)]
    (row,) = found.seeds["npo"]
    expected = next(row for row in across_seeds(list(runs.values())) if row.attack == "relearn")
    assert (row.recovery, row.runs, row.verdicts) == (expected.recovery, expected.runs, 3)
    assert row.recovery.value == pytest.approx(0.375)
    for text in shown(found, tmp_path).values():
        assert "Over seeds" in text
        assert "25 % to 50 %" in text


def test_points_of_reference_stand_beside_the_models_and_not_among_them(tmp_path: Path) -> None:
    two = {"one": report(attacked("relearn", 0.3), kept=0.7), "other": report(attacked("relearn", 0.5), kept=0.8)}
    points = {"sequential": report(kept=0.6), "joint": report(kept=1.0)}
    found = compare(two, brackets=points)
    assert list(rows(found)) == ["one", "other"]
    assert rows(found) == rows(compare(two))  # they take no attack from the comparison
    places = {name: {b.split: b.place for b in each} for name, each in found.brackets.items()}
    assert places["one"]["retain"] == pytest.approx(0.25)
    assert places["other"]["retain"] == pytest.approx(0.5)
    assert places["one"]["forget"] is None  # both points are equal there
    for text in shown(found, tmp_path).values():
        assert "Between other ways of training" in text
        assert "25 %" in text
    with pytest.raises(ValueError, match="should be of the same forget examples"):
        compare(two, brackets={"joint": report(content="other")})


def test_what_each_request_took_with_it_is_a_matrix(tmp_path: Path) -> None:
    def forgot(what: str, others: float) -> RobustnessReport:
        told = {"original": (0.9, 0.9), "unlearned": (0.1, others), "control": (0.1, 0.1)}
        every = [
            o for who, (own, also) in told.items() for o in (observed(who, own), observed(who, also, "other facts"))
        ]
        return assess(every, data={"forget": {"content_hash": what}}, restored=True)

    found = compare_requests({"Ada": forgot("a", 0.7), "<b>Bo</b>": forgot("b", 0.3)})
    assert found.matrix.splits == ["forget", "other facts"]
    assert found.matrix.ratios == [pytest.approx([1.0, 0.25]), pytest.approx([1.0, 0.75])]
    seen = shown(found, tmp_path)
    assert all("75 %" in text and "What each request took with it" in text for text in seen.values())
    assert "<b>Bo" not in seen["html"]
    assert not (tmp_path / "front.png").exists()
    with pytest.raises(ValueError, match="At least two reports"):
        compare_requests({"Ada": forgot("a", 0.7)})


def test_what_keeps_the_matrix_from_being_known_is_said() -> None:
    plain = report(attacked("relearn", 0.3))
    found = compare_requests({"one": plain, "other": report(content="other")})
    assert found.warnings == ["No control in one, other: what a model knows that was never told is not known."]
    assert all(ratio is None for row in found.matrix.ratios for ratio in row)


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    two = {"<i>one": report(attacked("relearn", 0.3)), "$other$": report(attacked("relearn", 0.5))}
    html = shown(compare(two), tmp_path)["html"]
    assert "<i>one" not in html
    assert html.count("<h1>") == html.count('<svg class="plot" role="img"') == 1
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/", "")
