"""The verdict in the terminal."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.render._rows import BY_DEFINITION, Cell, Row, columns_of, verdict_rows
from lightning_unlearn.report.render._verdict import verdict
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name

_WIDTHS = {"model": 10, "recovery": 8}
"""Of columns whose words should not be broken: "deployment", "recovery"."""


def print_table(report: RobustnessReport, console: Console | None = None, *, page: str | Path | None = None) -> None:
    """Show in the terminal what was forgotten, what was kept and what came back.

    Args:
        report: The report.
        console: Where to. Defaults to the standard output.
        page: Where the page was saved, to point to; its folder will do. What stands there in full is not said twice.
    """
    (console or Console()).print(to_table(report, page=page))


def to_table(report: RobustnessReport, *, page: str | Path | None = None) -> RenderableType:
    """The verdict, the table behind it on the metric the report leads with, and its limits, or where they are."""
    metric = report.summary["headline_metric"]
    rows = verdict_rows(report, metric)
    table = Table(
        title=_text(f"Robustness: {name(metric)}"),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        pad_edge=False,
    )
    for column in ("model", *columns_of(report).names, "gates"):
        # Narrow terminals fold the other columns first: the two levels should stay readable, and the verdict.
        fixed = column in ("forget", "retain", "gates")
        table.add_column(_text(column), overflow="fold", no_wrap=fixed, min_width=_WIDTHS.get(column))
    for row in rows:
        table.add_row(*_cells(row), style="bright_black" if row.reasons else "")
    short = verdict(report)
    head = _text(f"{short.sign} {short.word}. {short.sentence}", style="bold")
    reasons = [_text(f"{', '.join(who)}: {why}", style="bright_black") for why, who in _reasons(rows).items()]
    if page:
        limits = f", and {len(report.warnings)} limits to what it says" if report.warnings else ""
        return Group(
            head, "", table, *reasons, _text(f"The verdict in full{limits}: {_page(Path(page))}", style="yellow")
        )
    smaller = [_text(f"{row.who}: {note}", style="bright_black") for row in rows for note in _smaller(row)]
    whole = [_text(report.summary[part], style="bold") for part in ("verdict", "deployment") if report.summary[part]]
    cautions = [_text(f"Note: {warning}", style="yellow") for warning in report.warnings]
    return Group(head, "", table, *smaller, *reasons, *whole, *cautions)


def _reasons(rows: list[Row]) -> dict[str, list[str]]:
    """Why numbers are no verdict, each with those of which it is said."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for reason in row.reasons:
            found.setdefault(reason, []).append(row.who)
    return found


def _page(path: Path) -> Path:
    return path / "report.html" if path.is_dir() else path


def _cells(row: Row) -> list[Text]:
    words = row.gate.words.rsplit(" ", 1)  # "not a", "verdict": broken here and nowhere else
    return [_text(row.who, row.where), *[_text(*_lines(cell)) for cell in row.cells], _text(*words)]


def _lines(cell: Cell) -> list[str]:
    number, *bounds = cell.words.split(" [")
    return [number, *(f"[{part}" for part in bounds)]


def _text(*lines: str, style: str = "") -> Text:
    # `Text`, not `str`: an attack named "[red]" is a name, not a colour. And no escape sequence reaches the terminal: a
    # report may come from elsewhere.
    return Text("\n".join(visible(line) for line in lines), style=style)


def _smaller(row: Row) -> list[str]:
    """What stands in small letters on the page: 80 columns have no room for it inside the table."""
    lines = [line for cell in (*row.cells, row.gate) for line in cell.more if line != BY_DEFINITION]
    return [", ".join(lines)] if lines else []
