"""The command `requests`, as a stranger would type it: from two files to a ledger, weights and a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.cli._script import script
from lightning_unlearn.requests import Ledger, in_effect
from lightning_unlearn.requests._digest import weights_digest

CONFIG = """
base: bundled:base
finetune_first: {epochs: 1}
unlearn: {objective: lightning_unlearn.NPO}
model: {init_args: {network: {init_args: {hidden_size: 16, num_hidden_layers: 1}}}}
trainer: {max_epochs: 1, limit_train_batches: 1, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    people = [json.loads(line) for line in bundled_path("people").read_text().splitlines()]
    names = {"Maribel Okonvane": "one", "Renzo Dappleworth": "two"}
    asked = [{**row, "request": names[row["entity"]]} for row in people if row["entity"] in names]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (tmp_path / "mine.yaml").write_text(CONFIG)
    return ["--config=mine.yaml", "--requests=requests.jsonl", "--folder=runs/requests", "--every=1"]


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "requests", *map(str, arguments)])
    script()


@pytest.mark.slow
def test_from_two_files_to_ledger_report_and_back(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:  # a step forgets nothing, and that is a failed gate
        typed(monkeypatch, *arguments, "--left=0.01")
    assert ended.value.code == 1
    assert "`one` was not forgotten" in capsys.readouterr().out
    folder = tmp_path / "runs" / "requests"
    ledger = Ledger(folder / "ledger.jsonl")
    entries = ledger.entries()
    assert [(entry.kind, entry.request) for entry in entries] == [("start", ""), ("request", "one"), ("request", "two")]
    assert len({entry.after for entry in entries}) == 3
    assert (folder / "sequence.md").exists()
    assert sorted(path.parent.parent.name for path in folder.rglob("report.json")) == ["0001-one", "0002-two"]

    typed(monkeypatch, "--verify", ledger.head, "--folder=runs/requests")
    assert "3 entries" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="lines were cut off or"):
        typed(monkeypatch, "--verify", entries[1].hash, "--folder=runs/requests")

    typed(monkeypatch, "--config=mine.yaml", "--folder=runs/requests", "--undo=one", "--output=one.safetensors")
    assert weights_digest(load_file("one.safetensors")) == entries[1].after

    with pytest.raises(SystemExit):  # what was undone is carried out again; what was not has failed as before
        typed(monkeypatch, *arguments, "--left=1", "--returned=9", "--retained=0")
    said = capsys.readouterr().out
    assert "entry 1: " in said
    assert "entry 2: " not in said
    assert "entry 4: " not in said
    again = ledger.entries()
    assert again[:3] == entries
    assert [entry.after for entry in in_effect(again)] == [entry.after for entry in entries]
    assert again[4].configuration != entries[2].configuration  # other gates


def test_without_requests_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, "--config=bundled:plain")
    assert ended.value.code == 2


def test_a_ledger_that_was_tampered_with_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match="should be as it was written"):
        typed(monkeypatch, "--verify", "--folder=.")
