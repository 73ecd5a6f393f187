"""Running what a page of the documentation shows, from top to bottom, as its reader would."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.cli import script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {"api", "gallery", "measured", "_build"}
"""Folders of `docs/` that are there when it has been built."""
RUN = ("python", "yaml", "sh")
SHOWN = ("text", "json", "bash", "{math}", "{toctree}", "{include}")
"""Not run. ``bash`` is for commands that need a network, several GPUs or many minutes; they are checked otherwise."""

_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every block, in order."""
    return _BLOCK.findall(page)


def run_page(page: str, monkeypatch: pytest.MonkeyPatch, shorter: dict[str, str] | None = None) -> dict[str, Any]:
    """Run its blocks in the current folder; a block whose first line names a file is written there.

    Args:
        page: Its text.
        monkeypatch: Puts ``sys.argv`` and ``sys.path`` back.
        shorter: What is replaced, so that it takes less time.

    Returns:
        The names that its Python has made.
    """
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert all(long in page for long in shorter or {})
    names: dict[str, Any] = {"__name__": "page"}
    for language, text in blocks(reduce(lambda t, pair: t.replace(*pair), (shorter or {}).items(), page)):
        if named := _NAMED.match(text):
            Path(named[1]).write_text(text)
        elif language == "python":
            exec(compile(text, "page.py", "exec"), names)
        elif language == "sh":
            for command in commands(text):
                run_command(command, monkeypatch)
    return names


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, comments and prompts aside."""
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`lightning-unlearn ...` and `python file.py ...`, in this process."""
    if words[0] == "lightning-unlearn":
        monkeypatch.setattr(sys, "argv", words)
        script()
        return
    assert words[0] == "python", words
    monkeypatch.setattr(sys, "argv", words[1:])
    runpy.run_path(words[1], run_name="__main__")
