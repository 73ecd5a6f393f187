from __future__ import annotations

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.comparison._compare import Comparison
from lightning_unlearn.report.comparison._front import draw_points
from lightning_unlearn.report.comparison._requests import Requests
from lightning_unlearn.report.comparison._sheets import sheets_of
from lightning_unlearn.report.render._page import rendered
from lightning_unlearn.report.render._panel import Panel
from lightning_unlearn.report.schema._words import percent


def to_page(found: Comparison | Requests) -> str:
    """A comparison as one self-contained page, like a report's."""
    panels = [] if isinstance(found, Requests) else [_front(found)]
    return rendered("comparison.html.j2", sheets=sheets_of(found), warnings=found.warnings, panels=panels)


def _front(comparison: Comparison) -> Panel:
    shown = [row for row in comparison.rows if row.worst is not None and row.kept is not None]
    told = [
        f"{visible(row.name)} keeps {percent(row.kept or 0.0)} and gives back {percent(row.worst.value)}"
        for row in shown
        if row.worst is not None
    ]
    words = "; ".join(told) or "0 models have numbers that are verdicts"
    return Panel("What is kept against what comes back", lambda axes: draw_points(axes, comparison), words)
