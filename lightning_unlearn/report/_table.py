"""The verdict in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_unlearn.report._rows import Row, verdict_rows
from lightning_unlearn.report._words import name

if TYPE_CHECKING:
    from lightning_unlearn.report._report import RobustnessReport


def to_table(report: RobustnessReport, *, page: str | Path | None = None) -> RenderableType:
    """What was forgotten, what was kept, what came back, on the metric the report leads with.

    Args:
        report: The report.
        page: Where its page is, to point to; its folder will do.
    """
    metric = report.summary["headline_metric"]
    table = Table(title=f"Robustness: {name(metric)}", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in ("model", "forget", "retain", "recovery", "gates"):
        table.add_column(column, overflow="fold", no_wrap=column in ("forget", "retain"))
    rows = verdict_rows(report, metric)
    for row in rows:
        table.add_row(*_cells(row), style="bright_black" if row.reasons else "")
    notes = [Text(f"{row.who}: {reason}", style="bright_black") for row in rows for reason in row.reasons]
    verdict = [Text(report.summary["verdict"], style="bold")]
    cautions = [Text(f"Note: {warning}", style="yellow") for warning in report.warnings]
    where = [Text(f"The whole report: {_page(Path(page))}")] if page else []
    return Group(table, *notes, *verdict, *cautions, *where)


def _page(path: Path) -> Path:
    return path / "report.html" if path.is_dir() else path


def _cells(row: Row) -> list[Text]:
    # `Text`, not `str`: an attack named "[red]" is a name, not a colour
    numbers = [prediction.replace(" [", "\n[") for prediction in (row.forget, row.retain, row.recovery)]
    return [Text(cell) for cell in (f"{row.who}\n{row.where}", *numbers, row.gate)]
