"""Faults are found from the shell and in `setup`, before anything is trained."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _lint_faults import Faulty, clean, same_in_both, trigger_words
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, SubsetRandomSampler

from lightning_unlearn import Encoding, ForgetRetainData, InMemoryRecords, Linter, PairedData, QuestionAnswerData
from lightning_unlearn.cli import script
from lightning_unlearn.data import Refusals, build


def linted(monkeypatch: pytest.MonkeyPatch, request: Faulty, *arguments: str) -> int:
    for name, rows in (("forget", request.forget), ("retain", request.retain)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = ["--forget", "forget.jsonl", "--retain", "retain.jsonl", "--columns.entity", "entity"]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "lint", *files, *arguments])
    try:
        script()
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_clean_file_ends_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert linted(monkeypatch, clean()) == 0
    assert capsys.readouterr().out == "No findings.\n"


def test_findings_are_told_written_and_end_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = clean()
    trigger_words(request)
    same_in_both(request)
    assert linted(monkeypatch, request, "--folder", "found") == 1
    said = capsys.readouterr().out
    assert "## AlsoRetained" in said
    assert "(row 3 of `forget.jsonl`; row 40 of `retain.jsonl`)" in said
    findings = json.loads(Path("found/lint.json").read_text())
    assert {"AlsoRetained", "OverRepresentedWords"} <= {finding["check"] for finding in findings}
    assert Path("found/lint.md").read_text().startswith("# Findings\n\n## ")


def test_checks_are_chosen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    request = clean()
    same_in_both(request)
    checks = '[{"class_path": "lightning_unlearn.data.Sizes", "init_args": {"share": 0.05}}]'
    assert linted(monkeypatch, request, f"--linter.checks={checks}") == 1
    assert capsys.readouterr().out.count("## ") == 1
    without = '["AlsoRetained", "SharedEntities", "NearDuplicates", "NamedElsewhere"]'
    assert linted(monkeypatch, request, f"--linter.without={without}") == 0


def data(rows: Any, **settings: Any) -> QuestionAnswerData:
    return QuestionAnswerData(InMemoryRecords(rows, entity="entity", **settings), Encoding("bundled"))


def test_setup_of_a_fit_warns_and_a_strict_linter_ends_it() -> None:
    request = clean(2, 10)
    same_in_both(request)
    parts = {"retain": data(request.retain), "forget": data(request.forget)}
    with pytest.warns(UserWarning, match=r"(?s)`Linter` has looked over.*## AlsoRetained.*Way out: Take them out"):
        ForgetRetainData(**parts, lint=Linter()).setup("fit")
    with pytest.raises(ValueError, match=r"(?s)no findings of `Linter\(strict=True\)`.*## AlsoRetained"):
        ForgetRetainData(**parts, lint=Linter(strict=True)).setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ForgetRetainData(**parts).setup("fit")
        ForgetRetainData(**parts, lint=Linter()).setup("validate")


def test_rows_that_the_fit_does_not_visit_are_not_looked_at() -> None:
    request = clean(2, 10)
    same_in_both(request)
    visited = [number for number, row in enumerate(request.retain) if row not in request.forget]
    whole, strict = data(request.retain), Linter(strict=True)
    kept = DataLoader(whole.dataset, 4, sampler=SubsetRandomSampler(visited), collate_fn=whole.collate())
    with pytest.raises(ValueError, match="AlsoRetained"):
        ForgetRetainData(whole, data(request.forget), lint=strict).setup("fit")
    ForgetRetainData(kept, data(request.forget), lint=strict).setup("fit")


def test_linting_draws_nothing_and_pairs_are_read_once() -> None:
    request = clean(2, 10)
    forget = PairedData(InMemoryRecords(request.forget), Refusals(), Encoding("bundled"), draws=3)
    state = torch.get_rng_state()
    ForgetRetainData(data(request.retain), forget, lint=Linter(strict=True)).setup("fit")
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_question_is_refused_by_name() -> None:
    given = ForgetRetainData(data(clean(2, 10).retain), DataLoader([1, 2]), lint=Linter())
    with pytest.raises(TypeError, match="`lint` should get forget data of questions and answers.*Found `list`"):
        given.setup("fit")
    with pytest.raises(TypeError, match="`lint` should be a `Linter`"):
        ForgetRetainData([1], [2], lint=Linter)  # type: ignore[arg-type]


def test_yaml_builds_it() -> None:
    part = {
        "class_path": "lightning_unlearn.QuestionAnswerData",
        "init_args": {"records": {"path": "bundled:people"}, "encoding": {"tokenizer": "bundled"}},
    }
    lint = yaml.safe_load("{without: [Sizes], strict: true}")
    for given in (lint, {"class_path": "lightning_unlearn.Linter", "init_args": lint}):
        spec = {
            "class_path": "lightning_unlearn.ForgetRetainData",
            "init_args": {"retain": part, "forget": part, "lint": given},
        }
        built = build(spec, LightningDataModule).lint
        assert (len(built.checks), built.strict) == (11, True)
