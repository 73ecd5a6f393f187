"""A comparison in the terminal, as Markdown, JSON and a picture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.comparison._compare import Compared, Comparison
from lightning_unlearn.report.schema._json import to_strict_json
from lightning_unlearn.report.schema._words import level_words, name, percent, recovery_words
from lightning_unlearn.runtime import writable_folder, written_whole

_COLUMNS = ["model", "forget set", "kept", "an adversary brings back", "a deployment brings back", "front"]


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Show the table and its warnings in the terminal."""
    console = console or Console()
    title = Text(
        f"By {name(comparison.metric)}, worst case over {len(comparison.attacks)} attacks and points in common"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for row in comparison.rows:
        table.add_row(*map(Text, _cells(row)))
    console.print(table)
    console.print("front: no other of these keeps as much and gives back as little.", style="bright_black")
    for warning in comparison.warnings:
        console.print(Text(f"Note: {visible(warning)}"), style="yellow")


def to_markdown(comparison: Comparison) -> str:
    """The table as Markdown."""
    rows = [_COLUMNS, ["---"] * len(_COLUMNS), *map(_cells, comparison.rows)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {visible(warning)}" for warning in comparison.warnings)]) + "\n"


def save_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``front.png``.

    Raises:
        OSError: If the folder cannot be written.
    """
    into = writable_folder(str(folder))
    for file, text in (
        ("comparison.json", to_strict_json(asdict(comparison))),
        ("comparison.md", to_markdown(comparison)),
    ):
        with written_whole(into / file) as new:
            new.write_text(text, encoding="utf-8")
    with written_whole(into / "front.png") as new:
        draw_front(comparison, new)


def draw_front(comparison: Comparison, path: Path) -> None:
    """What each model keeps against what an adversary brings back, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for row in comparison.rows:
        if row.worst is None or row.kept is None:
            continue
        colour = "#26588c" if row.on_front else "#737b86"
        x, y = 100 * row.kept, 100 * row.worst.value
        if row.worst.low is not None and row.worst.high is not None:
            axes.vlines(x, 100 * row.worst.low, 100 * row.worst.high, color=colour)
        axes.plot(x, y, "o" if row.on_front else "x", color=colour)
        axes.annotate(visible(row.name), (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.set_xlabel("kept: retain utility, % of the original's")
    axes.set_ylabel("brought back by the worst attack, %")
    axes.set_title("Right and low is better; dots are not beaten in both", fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=150)


def _cells(row: Compared) -> list[str]:
    worst, deployed = (
        "not shown" if interval is None else f"{recovery_words(interval)} ({visible(where)})"
        for interval, where in ((row.worst, row.worst_attack), (row.deployed, row.deployed_attack))
    )
    kept = "-" if row.kept is None else percent(row.kept)
    return [visible(row.name), level_words(row.forgotten), kept, worst, deployed, "yes" if row.on_front else "no"]
