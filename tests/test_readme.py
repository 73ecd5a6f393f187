"""What README shows, runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    assert found, f"README shows no {language}"
    return found


@pytest.mark.filterwarnings("ignore:Attack data")
def test_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert Path("runs/report/report.html").exists()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_accepted(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.cli import main

    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    settings = yaml.safe_load(text)
    quick = {"accelerator": "cpu", "fast_dev_run": 1, "logger": False, "enable_progress_bar": False, "callbacks": []}
    settings.setdefault("trainer", {}).update(quick)
    path = tmp_path / "readme.yaml"
    path.write_text(yaml.safe_dump(settings))
    cli = main(["fit", "--config", str(path)])
    assert cli.trainer.state.finished


def test_commands_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert set(commands) == {"demo", "test"}
    assert all(f"\n{command}:" in makefile for command in commands)
