"""What lm-eval 0.4.13 really wrote of two tiny models, without what is not read; and the gate that is made of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _studies import report_of, status, study

from lightning_unlearn.cli import script
from lightning_unlearn.report import RobustnessReport, read_lm_eval, save, to_model_card, with_benchmarks

REAL = Path(__file__).with_name("lm_eval_people")
ORIGINAL, UNLEARNED = REAL / "original", REAL / "unlearned"
BEGUN = report_of(study())


def results(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("results_*.json")
    return json.loads(file.read_text())


def changed(folder: Path, source: Path = UNLEARNED, **parts: Any) -> Path:
    """A copy of results, with other parts."""
    shutil.copytree(source, folder)
    (file,) = folder.glob("results_*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
    return folder


def answered(folder: Path, scores: list[float]) -> Path:
    """A copy with other scores of the documents."""
    found = results(ORIGINAL)["results"]
    changed(folder, results={"people": {**found["people"], "acc,none": sum(scores) / len(scores)}})
    (file,) = folder.glob("samples_*.jsonl")
    rows = [
        {**json.loads(line), "acc": score} for line, score in zip(file.read_text().splitlines(), scores, strict=True)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_each_metric_is_an_observation_with_the_score_of_every_document() -> None:
    found = {o.metric: o for o in read_lm_eval(REAL / "unlearned", "unlearned", step=9)}
    told = results(UNLEARNED)["results"]["people"]
    assert set(found) == {"acc", "acc_norm"}
    for metric, observation in found.items():
        assert observation.value == told[f"{metric},none"]
        assert np.mean(observation.scores) == pytest.approx(told[f"{metric},none"])
        # The harness's standard error is that of a mean of independent documents.
        assert np.std(observation.scores, ddof=1) / np.sqrt(20) == pytest.approx(told[f"{metric}_stderr,none"])
        assert (observation.split, observation.subject, observation.step) == ("lm_eval/people", "unlearned", 9)
        assert len(set(observation.entities)) == 20


def test_without_documents_there_is_the_interval_of_the_standard_error(tmp_path: Path) -> None:
    (file,) = ORIGINAL.glob("results_*.json")
    shutil.copy(file, tmp_path)
    (acc, _) = read_lm_eval(tmp_path, "original")
    assert (acc.scores, acc.interval) == ([], pytest.approx((0.3 - 1.96 * 0.105131, 0.3 + 1.96 * 0.105131), abs=1e-4))


def test_a_metric_that_is_no_mean_of_its_documents_keeps_its_value_alone(tmp_path: Path) -> None:
    row = {"alias": "people", "f1,none": 0.4, "f1_stderr,none": "N/A", "acc,none": 0.9, "acc_stderr,none": 0.1}
    folder = changed(tmp_path / "other", results={"people": row})
    f1, acc = read_lm_eval(folder, "original")
    assert (f1.value, f1.scores, f1.interval) == (0.4, [], None)
    assert (acc.value, acc.scores) == (0.9, [])
    assert acc.interval is not None


def test_the_newest_of_several_results_is_read(tmp_path: Path) -> None:
    shutil.copytree(ORIGINAL, tmp_path / "a")
    shutil.copytree(UNLEARNED, tmp_path / "b")
    (newest,) = (o.value for o in read_lm_eval(tmp_path, "original") if o.metric == "acc_norm")
    assert newest == results(UNLEARNED)["results"]["people"]["acc_norm,none"]


def test_the_levels_of_both_are_in_the_report_and_its_files(tmp_path: Path) -> None:
    made = with_benchmarks(BEGUN, ORIGINAL, UNLEARNED, tolerances={"people/acc_norm": 0.5})
    levels = {(lev.model, lev.metric): lev.interval.value for lev in made.levels if lev.split == "lm_eval/people"}
    assert levels["original", "acc_norm"] == pytest.approx(0.35)
    assert levels["unlearned", "acc_norm"] == pytest.approx(0.3)
    assert "lm\\_eval" not in to_model_card(made)
    assert "| acc norm, people | 0.350" in to_model_card(made)
    save(made, tmp_path)
    assert RobustnessReport.load(tmp_path) == made
    assert "General benchmarks are kept" in (tmp_path / "report.html").read_text()


def test_all_else_of_the_report_is_as_it_was_and_a_second_time_replaces_the_first() -> None:
    once = with_benchmarks(BEGUN, ORIGINAL, UNLEARNED, tolerances={"people/acc": 0.02, "people/acc_norm": 0.5})
    assert once.gates[: len(BEGUN.gates)] == BEGUN.gates
    assert (once.recoveries, once.summary) == (BEGUN.recoveries, BEGUN.summary)
    assert with_benchmarks(once, ORIGINAL, UNLEARNED, tolerances={}).gates == BEGUN.gates
    assert with_benchmarks(once, ORIGINAL, UNLEARNED, tolerances={"people/acc": 0.02}).levels == once.levels


RIGHT = [1.0] * 12 + [0.0] * 8
OTHERS = [0.0] * 3 + [1.0] * 11 + [0.0] * 6  # three lost, two won


@pytest.mark.parametrize(
    ("after", "allowed", "wanted"),
    [
        (RIGHT, 0.0, "pass"),  # nothing differs
        ([0.0] * 12 + [0.0] * 8, 0.5, "fail"),  # a loss of 0.6
        (OTHERS, 0.5, "pass"),  # 0.05, surely below a half
        (OTHERS, 0.06, "warning"),  # 0.05, by twenty documents
        (OTHERS, 0.04, "fail"),
        ([1.0] * 20, 0.0, "pass"),  # better than before
    ],
)
def test_the_gate_is_passed_if_the_whole_interval_of_the_loss_is_allowed(
    after: list[float], allowed: float, wanted: str, tmp_path: Path
) -> None:
    before, now = answered(tmp_path / "before", RIGHT), answered(tmp_path / "now", after)
    made = with_benchmarks(BEGUN, before, now, tolerances={"people/acc": allowed})
    assert status(made, "G12") == [wanted], made.gates[-1].reason


def test_the_loss_is_paired(tmp_path: Path) -> None:
    """Of the same documents: had they been others, the loss might be larger."""
    before, now = answered(tmp_path / "before", RIGHT), answered(tmp_path / "now", OTHERS)
    paired = with_benchmarks(BEGUN, before, now, tolerances={"people/acc": 0.33})
    for folder in (before, now):
        (file,) = folder.glob("samples_*.jsonl")
        file.unlink()
    apart = with_benchmarks(BEGUN, before, now, tolerances={"people/acc": 0.33})
    assert status(paired, "G12") == ["pass"]
    assert status(apart, "G12") == ["warning"]


def test_a_loss_that_falls_is_one_that_gets_better(tmp_path: Path) -> None:
    how = {"results": {"people": {"loss,none": 2.0}}, "higher_is_better": {"people": {"loss": False}}}
    before = changed(tmp_path / "before", **how)
    now = changed(tmp_path / "now", **{**how, "results": {"people": {"loss,none": 3.0}}})
    assert status(with_benchmarks(BEGUN, before, now, tolerances={"people/loss": 0.5}), "G12") == ["fail"]
    assert status(with_benchmarks(BEGUN, now, before, tolerances={"people/loss": 0.5}), "G12") == ["warning"]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"n-shot": {"people": 5}}, "has another shots: 0 of the original, 5 of the unlearned"),
        ({"task_hashes": {"people": "other"}}, "has another hash of its prompts"),
        ({"n-samples": {"people": {"effective": 10}}}, "has another documents: 20 of the original, 10"),
    ],
)
def test_runs_that_differ_are_refused(parts: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        with_benchmarks(BEGUN, ORIGINAL, changed(tmp_path / "other", **parts), tolerances={})


@pytest.mark.parametrize("allowed", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_should_be_a_loss(allowed: float) -> None:
    with pytest.raises(ValueError, match="`tolerances` should be losses that are allowed, from 0 on. Found"):
        with_benchmarks(BEGUN, ORIGINAL, UNLEARNED, tolerances={"people/acc": allowed})


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Found 'arc/acc', and these: 'people/acc', 'people/acc_norm'"):
        with_benchmarks(BEGUN, ORIGINAL, UNLEARNED, tolerances={"arc/acc": 0.1})
    with pytest.raises(FileNotFoundError, match=r"Found no results at"):
        read_lm_eval(tmp_path, "original")
    (tmp_path / "results_now.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Results should have `results`, `configs` and `higher_is_better`"):
        read_lm_eval(tmp_path, "original")


@pytest.mark.parametrize(("allowed", "ends"), [("0.5", 0), ("0.01", 1)])
def test_the_command_writes_the_report_again_and_ends_with_1_if_a_gate_fails(
    allowed: str, ends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(BEGUN, tmp_path)
    words = ["--report", tmp_path, "--original", ORIGINAL, "--unlearned", UNLEARNED]
    words += ["--tolerance", f"people/acc_norm={allowed}"]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "benchmarks", *map(str, words)])
    if ends:
        with pytest.raises(SystemExit) as left:
            script()
        assert left.value.code == ends
    else:
        script()
    (gate,) = [gate for gate in RobustnessReport.load(tmp_path).gates if gate.code == "G12"]
    assert f"G12 {gate.status}: people/acc_norm was 0.350 and is 0.300: a loss of 0.050" in capsys.readouterr().out


def test_a_tolerance_without_a_number_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--report", "r", "--original", "o", "--unlearned", "u", "--tolerance", "people/acc"]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "benchmarks", *words])
    with pytest.raises(SystemExit, match="`--tolerance` should be TASK/METRIC=LOSS"):
        script()
