"""A report file from elsewhere is shown, and does nothing: not in a terminal, not on the page."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_unlearn.cli import script
from lightning_unlearn.functional.text import visible
from lightning_unlearn.report import RobustnessReport, print_table, save

SEQUENCES = {
    "clears the screen": "\x1b[2J\x1b[H",
    "makes a link": "\x1b]8;;http://example.com\x1b\\",
    "writes the clipboard": "\x1b]52;c;aGk=\x07",
    "one byte escapes": "\x9b31m\x9d0;title\x9c",
    "goes back in the line": "\r\b\b",
    "forges a line": "\nunlearned  0.000",
    "separates lines elsewhere": "\u2028\u0085\x0b\x0c",
    "reorders what follows": "\u202e\u2066",
    "hides": "\u200b\ufeff\u00ad",
    "half a character": "\ud83d",
}
MARKUP = "[link=http://example.com][red]x[/red][/link]"


def with_names(report: RobustnessReport, hostile: str) -> RobustnessReport:
    """The report as a file from elsewhere would hold it, with names and words of its writer's choice."""
    text = json.dumps(json.loads(report.to_json()))
    for name in ("relearn", "probability", "int8"):
        text = text.replace(f'"{name}"', json.dumps(f"{name}{hostile}{MARKUP}"))
    data = json.loads(text)
    data["warnings"] = [f"warning{hostile}"]
    data["summary"]["verdict"] += hostile
    data["run"]["notes"] = [f"note{hostile}"]
    data["recoveries"][0]["reasons"] = [f"G1{hostile}"]
    return RobustnessReport.from_json(json.dumps(data))


def in_terminal(report: RobustnessReport, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=2000, **options)
    print_table(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("hostile", SEQUENCES.values(), ids=SEQUENCES)
def test_nothing_reaches_the_terminal_but_visible_characters(report: RobustnessReport, hostile: str) -> None:
    shown = in_terminal(with_names(report, hostile), force_terminal=False)
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert shown.count("\n") <= in_terminal(report, force_terminal=False).count("\n") + 3  # of the added notes
    commands = [character for character in hostile if not character.isprintable()]
    assert all(command.encode("unicode_escape").decode() in shown for command in commands)


@pytest.mark.parametrize("hostile", SEQUENCES.values(), ids=SEQUENCES)
def test_a_terminal_with_colours_gets_only_ours(report: RobustnessReport, hostile: str) -> None:
    shown = in_terminal(with_names(report, hostile), force_terminal=True, color_system="standard")
    without_style = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "\x1b" in shown
    assert all(character.isprintable() or character == "\n" for character in without_style)
    assert MARKUP in without_style  # as it is written


def test_the_page_shows_them_as_text_and_every_file_is_written(report: RobustnessReport, tmp_path: Path) -> None:
    scripts = "<script>alert(1)</script> javascript:alert(1) '\" onload=alert(1) x='"
    made = with_names(report, "".join(SEQUENCES.values()) + scripts)
    html = save(made, tmp_path).read_text(encoding="utf-8")
    assert all(character.isprintable() or character in "\n\t" for character in html)
    tags = re.findall(r"<[a-zA-Z][^>]*>", html)
    assert len(tags) > 50
    assert not [tag for tag in tags if "alert" in tag or "example.com" in tag]
    assert RobustnessReport.load(tmp_path).summary == made.summary


def test_errors_of_the_command_line_are_inert_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn", "configs", "no\x1b[2Jsuch"])
    with pytest.raises(SystemExit) as stopped:
        script()
    assert "\x1b" not in str(stopped.value)
    assert r"no\x1b[2Jsuch" in str(stopped.value)


def test_text_that_is_harmless_stays_as_it_is() -> None:
    for text in ("Übergröße", "日本語", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u200db", "a · b — 90 %"):
        assert visible(text) == text
