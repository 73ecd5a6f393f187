"""A comparison in the terminal, as a page, Markdown, JSON and a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.comparison._compare import Comparison
from lightning_unlearn.report.comparison._front import draw_front
from lightning_unlearn.report.comparison._page import to_page
from lightning_unlearn.report.comparison._requests import Requests
from lightning_unlearn.report.comparison._sheets import Sheet, sheets_of
from lightning_unlearn.report.schema._json import to_strict_json
from lightning_unlearn.runtime import writable_folder, written_whole


def print_comparison(found: Comparison | Requests, console: Console | None = None) -> None:
    """Show the tables and the warnings in the terminal."""
    console = console or Console()
    for sheet in sheets_of(found):
        table = Table(title=Text(sheet.title), title_justify="left", box=SIMPLE_HEAD, show_edge=False)
        for column in sheet.columns:
            table.add_column(Text(column), overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        console.print(table)
        console.print(Text(sheet.note), style="bright_black")
    for warning in found.warnings:
        console.print(Text(f"Note: {visible(warning)}"), style="yellow")


def to_markdown(found: Comparison | Requests) -> str:
    """The tables as Markdown."""
    parts = [*map(as_markdown, sheets_of(found)), "\n".join(f"- {visible(warning)}" for warning in found.warnings)]
    return "\n\n".join(part for part in parts if part) + "\n"


def save_comparison(found: Comparison | Requests, folder: str | Path) -> None:
    """Write ``comparison.html``, ``comparison.json``, ``comparison.md``, and ``front.png`` where there is a front.

    Raises:
        OSError: If the folder cannot be written.
    """
    into = writable_folder(str(folder))
    for file, text in (
        ("comparison.json", to_strict_json(asdict(found))),
        ("comparison.md", to_markdown(found)),
        ("comparison.html", to_page(found)),
    ):
        with written_whole(into / file) as new:
            new.write_text(text, encoding="utf-8")
    if isinstance(found, Comparison):
        with written_whole(into / "front.png") as new:
            draw_front(found, new)


def as_markdown(sheet: Sheet) -> str:
    """A table with its title and note."""
    rows = [sheet.columns, ["---"] * len(sheet.columns), *sheet.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", "; ") for cell in row) + " |" for row in rows]
    return "\n".join([f"**{sheet.title}**", "", *lines, "", sheet.note])
