"""What README shows, runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pages import MADE, ROOT

from lightning_unlearn import Unlearn

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


LINKING = [
    str(path.relative_to(ROOT))
    for folder in ("", "docs", "docs/*", "benchmarks", "benchmarks/*", "examples")
    for path in sorted(ROOT.glob(f"{folder}/*.md".lstrip("/")))
    if path.parent.name not in MADE
]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


RUN_AS_A_WHOLE = {"forget-a-fact-in-your-own-model.md"}  # its blocks need each other: `test_forget_a_fact.py`
YAML = [
    pytest.param(text, id=f"{name}-{number}")
    for name, page in PAGES.items()
    if name not in RUN_AS_A_WHOLE
    for number, text in enumerate(blocks("yaml", page), start=1)
]


def test_there_is_something_to_run() -> None:
    assert len(blocks("python")) > 4
    assert len(YAML) > 4
    assert {"README.md", "CONTRIBUTING.md", "docs/concepts/guards.md", "benchmarks/peer/README.md"} <= set(LINKING)
    assert {"README.md", "choose-how-to-forget.md", *RUN_AS_A_WHOLE} <= set(PAGES)


@pytest.mark.parametrize("name", LINKING)
def test_links_to_files_and_headings_of_ours_lead_somewhere(name: str) -> None:
    """As GitHub names headings: in small letters, with hyphens for blanks, and nothing else that is no word."""
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / name).read_text()):
        path, _, heading = target.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        made = there.resolve().is_relative_to(ROOT / "docs") and not MADE.isdisjoint(there.resolve().parts)
        assert made or there.exists(), target
        titles = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE) if heading else []
        assert not heading or heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.filterwarnings("ignore:Attack data")
def test_python_runs_from_top_to_bottom(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert Path("runs/report/report.html").exists()


@pytest.mark.parametrize("text", YAML)
def test_yaml_is_accepted(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.cli import main

    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    settings = yaml.safe_load(text)
    quick = {"accelerator": "cpu", "fast_dev_run": 1, "logger": False, "enable_progress_bar": False, "callbacks": []}
    settings.setdefault("trainer", {}).update(quick)
    path = tmp_path / "readme.yaml"
    path.write_text(yaml.safe_dump(settings))
    if "base" in settings and "finetune_first" not in settings:  # teaches, and is attacked, for minutes: built, not run
        assert any(isinstance(c, Unlearn) for c in main(["--config", str(path)], run=False).trainer.callbacks)
        return
    cli = main(["fit", "--config", str(path)])
    assert cli.trainer.state.finished


def test_commands_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert set(commands) == {"demo", "test"}
    assert all(f"\n{command}:" in makefile for command in commands)
