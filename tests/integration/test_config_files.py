"""Configurations: a key that stands twice is an error with both lines, wherever the configuration comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser, get_loader

from lightning_unlearn.cli import bundled_configs, main, read_config, script
from lightning_unlearn.cli._config_file import ConfigFile
from lightning_unlearn.cli._yaml import dump_yaml, load_yaml, use_unique_keys


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    monkeypatch.setattr(sys, "path", [*sys.path])


TWICE = "trainer:\n  max_steps: 1\n  # nothing\n  max_steps: 2\n"


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


@pytest.mark.parametrize(
    "files",
    [{"mine": TWICE}, {"mine": f"base: bundled:quickstart\n{TWICE[:-1]}"}, {"mine": "base: base.yaml", "base": TWICE}],
    ids=["alone", "with a base", "in the base"],
)
def test_a_file_with_a_key_twice_is_named_with_both_lines(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, **files)
    said = r"Found, in .*\.yaml: Each key should stand once.* Found `max_steps` in lines \d and \d\. Leave one out"
    with pytest.raises(ValueError, match=said):
        read_config(path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "fit", "--config", str(path)])
    with pytest.raises(SystemExit, match=said) as stopped:
        script()
    assert "Traceback" not in str(stopped.value)


def test_a_file_that_a_configuration_names_and_text_are_read_in_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = "class_path: lightning_unlearn.Unlearn\ninit_args:\n  weight: 1\n  weight: 2"
    path = written(tmp_path, mine="unlearn: part.yaml", part=part)
    for given, said in ((str(path), "`weight` in lines 3 and 4"), ("{trainer: {a: 1, a: 2}}", "`a` in lines 1 and 1")):
        with pytest.raises(SystemExit, match="^2$"):
            main(["fit", "--config", given])
        assert said in capsys.readouterr().err


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"should be YAML that can be read\. Found, in .*mine\.yaml: while parsing .*line 1"
    ):
        read_config(written(tmp_path, mine="a: [1, 2\nb: {"))
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"should be YAML that can be read\. Found, in .*mine\.yaml"):
        read_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "- {b: 1}\n- {b: 1, b: 1}",
        "x: {y: {z: 1, z: 1}}",
        '"a": 1\na: 2',
        "1: x\n1: y",
        "&me [{k: *me, k: 1}]",
    ],
)
def test_twice_at_any_depth(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="Each key should stand once"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text", ["a: &x {b: 1}\nc: *x\nd: {b: 1}", "&me {a: *me}", "", "5", "- a\n- a", "null", "lr: 1e-3"]
)
def test_the_rest_is_read_as_the_parser_reads_it(text: str) -> None:
    assert repr(load_yaml(text)) == repr(get_loader("yaml")(text))


TEXTS = [
    "1e3",
    "-2E5",
    "1_0e3",
    ".5",
    "1.e+5",
    ".inf",
    "nan",
    "0x10",
    "1_000",
    "yes",
    "2024-01-01",
    "null",
    "~",
    "",
    "e3",
    "a: b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_looks_like_a_number_comes_back_as_text(text: str) -> None:
    settings = {"x": text, "y": [text], text: 1e3}
    assert load_yaml(dump_yaml(settings)) == settings


def test_numbers_come_back_as_numbers() -> None:
    settings = {"x": [1e3, 1e-5, 1, True, None, float("inf"), -0.5, 1e22]}
    assert repr(load_yaml(dump_yaml(settings))) == repr(settings)


def test_a_quoted_number_is_a_text_with_a_base_as_without(tmp_path: Path) -> None:
    path = written(tmp_path, mine='base: base.yaml\nname: "1e3"\n', base="lr: 1e-3\n")
    parser = ArgumentParser(exit_on_error=False, parser_mode=use_unique_keys())
    parser.add_argument("--config", action=ConfigFile)
    parser.add_argument("--name", type=str | float)
    parser.add_argument("--lr", type=str | float)
    read = parser.parse_args([f"--config={path}"])
    assert (read.name, read.lr) == ("1e3", 1e-3)


def test_our_own_configurations_have_every_key_once() -> None:
    assert len(bundled_configs()) > 10
    for path in bundled_configs().values():
        load_yaml(path.read_text(encoding="utf-8"))


def test_other_parsers_of_the_process_read_as_before() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--a", type=int)
    assert parser.parse_string("a: 1\na: 2").a == 2
