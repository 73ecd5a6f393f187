"""The commands `audit` and `compare`, from files to files, as a stranger would type them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_model
from torch import nn

from lightning_unlearn import TinyCausalLM
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.cli._script import script
from lightning_unlearn.report import RobustnessReport


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and questions of two groups in files with columns of their own."""
    folder = tmp_path_factory.mktemp("files")
    for seed, who in enumerate(("original", "control", "unlearned", "another")):
        save_model(TinyCausalLM(hidden_size=32, num_hidden_layers=1, seed=seed), folder / f"{who}.safetensors")
    people = [json.loads(line) for line in (Path(bundled_path()) / "people.jsonl").read_text().splitlines()]
    for group in ("forget", "retain"):
        rows = [row for row in people if row["group"] == group][:9]
        own = [{"ask": row["question"], "say": row["answer"], "who": row["entity"]} for row in rows]
        (folder / f"{group}.jsonl").write_text("\n".join(map(json.dumps, own)))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *map(str, arguments)])
    script()


def arguments(files: Path, folder: Path, model: str = "unlearned") -> list[Any]:
    weights = {"model": model, "original": "original", "control": "control"}
    questions = {"forget": files / "forget.jsonl", "retain": files / "retain.jsonl", "encoding": "bundled"}
    columns = {"columns.question": "ask", "columns.answer": "say", "columns.entity": "who"}
    network = {"network": "lightning_unlearn.TinyCausalLM", "network.hidden_size": 32, "network.num_hidden_layers": 1}
    given = {**{who: files / f"{name}.safetensors" for who, name in weights.items()}, **questions, **columns, **network}
    about = {"preset": "quick", "folder": folder, "accelerator": "cpu"}
    return ["audit", *(f"--{name}={value}" for name, value in {**given, **about}.items())]


@pytest.mark.slow
def test_two_audits_and_their_comparison(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in ("unlearned", "another"):
        run(monkeypatch, *arguments(files, tmp_path / model, model))
        assert re.search(
            r"About \d+ (second|minute)s?: 6 attacks, 18 looks, 40 training steps\.", capsys.readouterr().out
        )
    report = RobustnessReport.load(tmp_path / "unlearned")
    assert {o.subject for o in report.observations} == {"original", "control", "unlearned"}
    assert not report.failures
    assert report.data["forget"]["n"] == 9
    assert report.data["forget"]["entities"] > 1

    run(monkeypatch, "compare", tmp_path / "unlearned", tmp_path / "another", "--folder", tmp_path / "both")
    assert "unlearned" in capsys.readouterr().out
    rows = json.loads((tmp_path / "both" / "comparison.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {"unlearned", "another"}

    first, second = tmp_path / "unlearned", tmp_path / "another"
    brackets = ("--bracket", f"joint={first}", "--bracket", f"sequential={second}")
    run(monkeypatch, "compare", f"npo={first},{second}", *brackets, "--folder", tmp_path / "seeds")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Over seeds" in shown
    assert "Between other ways of training" in shown
    assert {row["name"] for row in json.loads((tmp_path / "seeds" / "comparison.json").read_text())["rows"]} == {
        "npo 1",
        "npo 2",
    }
    run(monkeypatch, "compare", "--requests", f"Ada={first}", f"Bo={second}", "--folder", tmp_path / "requests")
    assert "What each request took with it" in " ".join(capsys.readouterr().out.split())
    assert "Ada" in (tmp_path / "requests" / "comparison.html").read_text()


def test_a_model_that_is_missing_is_one_message(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="Found nothing at .*nowhere.safetensors"):
        run(monkeypatch, *arguments(files, tmp_path, "nowhere"))


def test_reports_that_are_missing_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="should be a report's folder or its `report.json`"):
        run(monkeypatch, "compare", tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["runs/a/report.json", "other/a/report.json"], "`a` twice. Give them names: one=runs/a/report.json"),
        (["--requests", "a=one,two", "b=three"], "Found several under `a`"),
        (["a=one", "--bracket", "joint=two,three"], "Found several under `joint`"),
    ],
)
def test_names_that_are_not_clear_are_refused(
    given: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=complaint):
        run(monkeypatch, "compare", *given)


@pytest.mark.parametrize("command", ["audit", "compare"])
def test_help_explains(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # A network from another library whose module cannot be imported any more: no subject for a warning.
    gone = type("Gone", (nn.Module,), {"__module__": "not_there.any_more"})
    with pytest.raises(SystemExit, match="^0$"):
        run(monkeypatch, command, "--help")
    assert not gone.__subclasses__()
    text = " ".join(capsys.readouterr().out.split())
    assert {"audit": "goes on when the same command is given again", "compare": "no other beats in both"}[
        command
    ] in text
    assert "``" not in text
