"""The command `edit`, from files to a folder, as a stranger would type it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model

from lightning_unlearn import LoRA, PretrainedCausalLM, TinyCausalLM
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.cli._script import script
from lightning_unlearn.data import Encoding, FileRecords, LoaderSettings, QuestionAnswerData, in_order, loader_of
from lightning_unlearn.edits import Dampen
from lightning_unlearn.readouts import CausalLMReadout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save_model(TinyCausalLM(hidden_size=32, num_hidden_layers=1), str(tmp_path / "model.safetensors"))
    people = [json.loads(line) for line in (Path(bundled_path()) / "people.jsonl").read_text().splitlines()]
    for group in ("forget", "retain"):
        rows = [{"ask": r["question"], "say": r["answer"]} for r in people if r["group"] == group][:8]
        (tmp_path / f"{group}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, files: Path, *more: str) -> None:
    given = {
        "model": files / "model.safetensors",
        "network": "lightning_unlearn.TinyCausalLM",
        "network.hidden_size": 32,
        "network.num_hidden_layers": 1,
        "encoding": "bundled",
        "columns.question": "ask",
        "columns.answer": "say",
        "folder": files / "edited",
        "batch_size": 4,
        "device": "cpu",
    }
    command = ["edit", *(f"--{name}={value}" for name, value in given.items()), *more]
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *command])
    script()


def data(files: Path, group: str) -> list[Any]:
    records = FileRecords(str(files / f"{group}.jsonl"), question="ask", answer="say")
    return list(
        in_order(loader_of(QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size=4)), "x", None))
    )


def test_what_is_written_is_what_the_edit_makes_in_a_script(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [f"--{group}={files / group}.jsonl" for group in ("forget", "retain")]
    run(monkeypatch, files, "--edit=Dampen", "--edit.alpha=1.2", *both)
    expected: Any = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
    record = Dampen(alpha=1.2)(
        expected, forget=data(files, "forget"), retain=data(files, "retain"), readout=CausalLMReadout()
    )
    written = PretrainedCausalLM(str(files / "edited"))
    for (name, p), q in zip(written.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q), name
    told = json.loads((files / "edited" / "edit.json").read_text())
    assert told["edit"] == "Dampen"
    assert told["settings"] == {"alpha": 1.2, "dampening": 1.0}
    assert told["elements"] == record.elements > 0
    assert f"Dampen changed {record.elements} weights" in capsys.readouterr().out


def test_an_edit_without_data_needs_none(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, files, "--edit=Corrupt", "--edit.alpha=0.5")
    before = TinyCausalLM(hidden_size=32, num_hidden_layers=1).get_parameter("lm_head.weight")
    assert torch.equal(PretrainedCausalLM(str(files / "edited")).get_parameter("lm_head.weight"), before / 2)


def test_data_that_are_missing_are_one_message(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="`Dampen` should get retain data. Found none. Give --retain"):
        run(monkeypatch, files, "--edit=Dampen", f"--forget={files / 'forget.jsonl'}")
    assert not (files / "edited" / "edit.json").exists()


def test_a_folder_with_an_adapter_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edited model would be loaded with the old adapter on top."""
    TinyCausalLM(hidden_size=32, num_hidden_layers=1).save_pretrained(files / "base")
    LoRA(r=2).wrap(PretrainedCausalLM(str(files / "base"))).save_pretrained(files / "adapter")
    at = [f"--{name}={files / 'adapter'}" for name in ("model", "folder")]
    with pytest.raises(SystemExit, match=r"^ValueError: .* Found `adapter_config.json` of an adapter"):
        run(monkeypatch, files, *at, "--network=null", "--edit=Corrupt")
    assert not (files / "adapter" / "config.json").exists()


def test_help_explains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "edit", "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        script()
    text = " ".join(capsys.readouterr().out.split())
    assert "Change a finished language model once" in text
    assert "``" not in text
