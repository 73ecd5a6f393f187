"""The record: what changed, what it cost, which code it was, and what is not claimed."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from _studies import attacked, control, observed, report_of, study

from lightning_unlearn.observation import Change, Observation
from lightning_unlearn.report import RobustnessReport, assess
from lightning_unlearn.report.analysis._code import code_facts
from lightning_unlearn.report.analysis._method import method_of
from lightning_unlearn.report.analysis._not_claimed import FAMILIES
from lightning_unlearn.report.render._scores import COLUMNS, to_jsonl, to_parquet


def unclaimed(observations: Sequence[Observation], **options: Any) -> str:
    return " ".join(report_of(list(observations), **options).record.not_claimed)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kind_of_attack_that_was_not_tried_is_not_claimed(family: str) -> None:
    words = FAMILIES[family].split(":")[0]
    assert words in unclaimed(study(family="some other kind"))
    assert words not in unclaimed(study(family=family))


def test_an_attack_on_the_control_alone_is_no_attack() -> None:
    how = {"attack": "noise", "family": "noise", "point": 1, "unit": "step"}
    assert FAMILIES["noise"] in unclaimed([*study(), observed(0.2, 0, subject="control", **how)])


@pytest.mark.parametrize(
    "added",
    [
        [observed(0.1, 9, "weights", metric="bucket_flips_int4")],
        [observed(0.5, 9, "holdout"), observed(0.5, 9, "forget_vs_holdout", metric="advantage_loss")],
    ],
    ids=["of weights alone", "a holdout of membership"],
)
def test_what_asks_no_further_question_claims_nothing_of_the_rest(added: list[Observation]) -> None:
    assert "near the forget set" in unclaimed([*study(), *added])


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        (control(0.2), "without a control"),
        ([observed(0.5, 9, "neighbours")], "near the forget set"),
        ([observed(0.5, 9, layer="layers.0")], "no layer was looked into"),
        ([observed(0.5, 9, metric="rouge")], "in its own words"),
        ([observed(0.5, 9, metric="min_k")], "tests of membership"),
    ],
)
def test_what_was_looked_at_is_no_longer_among_what_is_not_claimed(added: list[Observation], sentence: str) -> None:
    assert sentence in unclaimed(study())
    assert sentence not in unclaimed([*study(), *added])


def test_without_an_original_or_a_retain_set_nothing_is_claimed_of_them() -> None:
    alone = [observed(0.1, 9), *attacked("relearn", (0.4,))]
    alone = [o for o in alone if o.split == "forget"]
    assert "the original was not measured" in unclaimed(alone)
    assert "no retain set was measured" in unclaimed(alone)
    assert "Nothing here is a proof" in unclaimed(alone)


def change(name: str, elements: int, share: float, trainable: bool = True) -> Change:
    return Change(name, elements, trainable, share > 0, share)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ([change("a", 10, 1.0), change("b", 10, 0.5)], "global"),
        ([change("a", 10, 0.5), change("b", 10, 0.0)], "local"),
        ([change("a", 10, 0.0), change("a.lora_B.default", 2, 1.0)], "architecture"),
        ([change("a", 10, 0.0)], "none"),
        ([], ""),
    ],
)
def test_the_class_of_a_method_is_what_it_really_changed(changes: list[Change], kind: str) -> None:
    assert method_of(changes).kind == kind


def test_declared_and_measured_shares_are_of_weights_not_of_tensors() -> None:
    method = method_of([change("large", 90, 0.5), change("small", 10, 0.0, trainable=False)])
    assert method.declared == pytest.approx(0.9)
    assert method.measured == pytest.approx(0.45)


def test_what_changed_without_being_declared_is_named_unless_an_edit_was_made() -> None:
    secretly = [change("a", 1, 1.0), change("b", 1, 0.5, trainable=False)]
    assert method_of(secretly).undeclared == ["b"]
    assert method_of(secretly, edits=["Dampen"]).undeclared == []


def test_a_layer_is_a_name_up_to_its_first_number() -> None:
    names = ["model.layers.3.mlp.up.weight", "lm_head.weight", "weight", "blocks.1.experts.7.w"]
    assert [change(name, 1, 0.0).layer for name in names] == ["model.layers.3", "lm_head", "weight", "blocks.1"]


def git(folder: Path, *command: str) -> None:
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", "-C", str(folder), *who, *command], check=True, capture_output=True)


def test_the_commit_is_known_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert "git_commit" not in code_facts(tmp_path)
    git(tmp_path, "init")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = code_facts(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] is False
    (tmp_path / "train.py").write_text("2")
    assert code_facts(tmp_path) == {**clean, "git_dirty": True}
    assert str(tmp_path) not in str(clean)


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert list(code_facts()) == ["package_hash"]


def test_the_hash_of_the_configuration_follows_the_configuration() -> None:
    one, other, none = (assess([], config=text, draws=20).record.config_hash for text in ("a: 1", "a: 2", ""))
    assert one.startswith("sha256:")
    assert one != other
    assert none == ""


def test_every_score_is_a_row(report: RobustnessReport) -> None:
    rows = [json.loads(line) for line in to_jsonl(report.observations).splitlines()]
    assert len(rows) == sum(len(o.scores) for o in report.observations) > 0
    assert all(tuple(row) == COLUMNS for row in rows)
    first = report.observations[0]
    assert [row["score"] for row in rows[: len(first.scores)]] == first.scores
    assert [row["entity"] for row in rows[: len(first.scores)]] == first.entities


def test_rows_keep_the_numbers_of_examples_and_the_words() -> None:
    said = Observation("rouge", "forget", 1.0, scores=[1.0, float("nan")], examples=[7, 9], texts=["line\nline", "ü"])
    rows = [json.loads(line) for line in to_jsonl([said]).decode().splitlines()]
    assert [(row["example"], row["text"], row["score"]) for row in rows] == [(7, "line\nline", 1.0), (9, "ü", None)]


def test_parquet_holds_the_same_rows(report: RobustnessReport) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow, which `datasets` brings, is not installed")
    table = parquet.read_table(io.BytesIO(to_parquet(report.observations) or b""))
    assert table.to_pylist() == [json.loads(line) for line in to_jsonl(report.observations).splitlines()]


def test_without_pyarrow_there_is_no_parquet(report: RobustnessReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.report.render._scores.find_spec", lambda name: None)
    assert to_parquet(report.observations) is None
