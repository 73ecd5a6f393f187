"""The command `forget`: from a model and two files to a model, a report, and the configuration that does it again."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lightning_unlearn import Encoding, TinyCausalLM
from lightning_unlearn.auditing._audit import _notes
from lightning_unlearn.auditing._subjects import Subjects
from lightning_unlearn.bundled import bundled_path
from lightning_unlearn.cli import UnlearnCLI, read_config, script
from lightning_unlearn.data.encodings import usual_encoding
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.report import RobustnessReport

GIVEN = ("forget", "--model", "model", "--forget", "go.jsonl", "--retain", "stay.jsonl")


@pytest.fixture(autouse=True)
def _files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    network: Any = TinyCausalLM(hidden_size=32, num_hidden_layers=1)
    network.save_pretrained("model")
    Encoding("bundled").tokenizer.save_pretrained("model")
    people = [json.loads(line) for line in (Path(bundled_path()) / "people.jsonl").read_text().splitlines()]
    for group, name in (("forget", "go"), ("retain", "stay")):
        rows = [row for row in people if row["group"] == group][:9]
        own = [{"ask": row["question"], "answer": row["answer"], "who": row["entity"]} for row in rows]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, own)))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[UnlearnCLI]:
    """The fits that would have been run, model and trainer built."""
    found: list[UnlearnCLI] = []
    monkeypatch.setattr(UnlearnCLI, "_run_subcommand", lambda self, subcommand: found.append(self))
    return found


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *arguments])
    script()


def without_template() -> None:
    tokenizer = load_tokenizer("model")
    tokenizer.chat_template = None
    tokenizer.save_pretrained("model")
    Path("model/chat_template.jinja").unlink(missing_ok=True)


ASKED = ("--columns.question", "ask")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_ends_with_a_model_a_report_and_an_audit_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, *GIVEN, *ASKED, "--columns.entity", "who", "--steps", "3", "--trainer.accelerator=cpu")
    said = capsys.readouterr().out
    assert f"Open {Path('runs/forgotten/report.html').resolve()}" in said
    assert "/docs/forget-a-fact-in-your-own-model.md#read-the-report" in said
    report = RobustnessReport.load("runs/forgotten")
    assert report.run["steps"] == 3
    assert {o.subject for o in report.observations} == {"original", "unlearned"}
    assert report.data["forget"]["entities"] > 1
    weight = "model.layers.0.mlp.up_proj.weight"
    before, after = (load_weights(folder)[weight] for folder in ("model", "runs/forgotten/model"))
    assert not torch.equal(before, after)

    (again,) = re.findall(r"^  (lightning-unlearn audit .*)$", said, flags=re.MULTILINE)
    typed(monkeypatch, *shlex.split(again)[1:], "--accelerator=cpu")
    assert RobustnessReport.load("runs/forgotten/audit").failures == []


def load_weights(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("earlier", [False, True])
def test_no_page_is_pointed_at_where_none_was_written(
    earlier: bool, fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if earlier:
        (folder := Path("runs/forgotten")).mkdir(parents=True)
        (folder / "report.html").write_text("of another fit")
    typed(monkeypatch, *GIVEN, *ASKED, "--report=null")
    said = capsys.readouterr().out
    assert "Open " not in said
    assert "The model is in runs/forgotten/model" in said
    assert len(fits) == 1


def test_what_it_writes_is_what_it_runs_and_runs_again(
    fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(
        monkeypatch, *GIVEN, *ASKED, "--steps=7", "--folder=here", "--unlearn.under_every=3", "--columns.entity", "who"
    )
    said = capsys.readouterr().out
    assert "9 questions must go, about " in said
    assert "chat template" not in said
    typed(
        monkeypatch,
        *("fit", "--config", "here/forget.yaml", "--unlearn.under_every=3", "--trainer.enable_progress_bar=false"),
    )
    first, second = (dict(cli.config["fit"]) for cli in fits)
    for config in (first, second):
        config.pop("config")
    assert first == second
    config = yaml.safe_load(fits[0].parser.dump(fits[0].config, skip_unset=True))["fit"]
    assert (config["trainer"]["max_steps"], config["report"]["init_args"]["folder"]) == (7, "here")
    assert config["unlearn"]["init_args"]["under_every"] == 3
    assert "control" not in config["recovery"]["init_args"]
    saved, progress = fits[0].trainer.callbacks[1:3]  # type: ignore[attr-defined]
    assert saved.folder == "here/model"
    assert type(progress).__name__ == "ShowProgress"


def test_all_weights_are_trained_and_attacked_on_demand(
    fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, *GIVEN, *ASKED, "--all-weights")
    module: Any = fits[0].model
    assert all(weight.requires_grad for weight in module.network.parameters())
    under, recovery = fits[0].trainer.callbacks[0], fits[0].trainer.callbacks[3]  # type: ignore[attr-defined]
    assert [dict(under.under)["relearn"].mode, recovery.attacks["relearn"].mode] == ["full", "full"]
    assert set(recovery.attacks) == {"int4", "relearn"}


def test_without_a_chat_template_rows_are_plain_text_and_it_says_so(
    fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_template()
    typed(monkeypatch, *GIVEN, *ASKED)
    assert "has no chat template, so rows are asked as `Question: ...`" in capsys.readouterr().out
    data: Any = fits[0].datamodule
    assert [part.source.encoding.template for part in (data.forget, data.retain)] == ["plain", "plain"]


def test_a_number_says_how_many_rows_are_about_the_same(
    fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, *GIVEN, *ASKED, "--columns.entity", "3", "--control", "control")
    assert "9 questions must go, about 3 entities." in capsys.readouterr().out
    settings = read_config("runs/forgotten/forget.yaml")
    assert settings["data"]["init_args"]["forget"]["init_args"]["records"]["entity"] == 3
    assert settings["recovery"]["control"] == "control"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("forget", "--model", "model"), "required: --forget, --retain"),
        ((*GIVEN, *ASKED, "--steps", "none"), "at least 1, found 'none'"),
    ],
)
def test_what_is_missing_or_wrong_is_said_by_its_name(
    arguments: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        typed(monkeypatch, *arguments)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(GIVEN, "columns.question|question"), ((*GIVEN[:-1], "nowhere.jsonl", *ASKED), "nowhere.jsonl")],
)
def test_files_that_cannot_be_read_end_it_before_a_model_is_built(
    arguments: tuple[str, ...], complaint: str, fits: list[UnlearnCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=complaint):
        typed(monkeypatch, *arguments)
    assert fits == []


def test_an_audit_of_a_model_without_a_chat_template_says_how_it_asked() -> None:
    without_template()
    encoding = usual_encoding("model")
    assert encoding.template == "plain"
    notes = [_notes(Subjects(nn.Linear(1, 1), "model"), each) for each in (encoding, Encoding("bundled"), None)]
    assert [any("by no chat template" in note for note in said) for said in notes] == [True, False, False]
