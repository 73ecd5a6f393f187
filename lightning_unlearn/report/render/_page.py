"""The report as one self-contained page: no script, no font, no image from elsewhere."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.render._page_view import PageView
from lightning_unlearn.report.render._palette import DARK, LIGHT
from lightning_unlearn.report.schema import Gate, RobustnessReport
from lightning_unlearn.report.schema._words import name, plain

FOLDER = Path(__file__).parent


def to_page(report: RobustnessReport) -> str:
    """The report as one HTML page."""
    return rendered("page.html.j2", report=report, summary=report.summary, view=PageView(report))


def rendered(template: str, **values: Any) -> str:
    """A page in our style sheet and palette, from one of the templates in this folder."""
    css = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    return _environment().get_template(template).render(light=LIGHT, dark=DARK, css=css, **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        name=name, plain=plain, share=_share, reach=_reach, zip=_zip, breakable=_breakable, unbroken=_unbroken
    )
    return environment


def _shown(value: Any) -> Any:
    """Escape what would reorder or hide text on the page. Lines stay lines: the configuration has many."""
    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(words: str) -> Markup:
    """Where the name of a layer may go on in the next line: behind its dots, not inside a word."""
    return Markup(".<wbr>").join(visible(words).split("."))


def _unbroken(words: str) -> Markup:
    """Where there is little room: no line begins with %."""
    return Markup("&nbsp;%").join(visible(words).split(" %"))


def _share(value: float) -> float:
    """Position of a recovery on a bar from 0 to 100 %."""
    return 100 * min(max(value, 0.0), 1.0) if value == value else 0.0  # NaN differs from itself


def _reach(gate: Gate) -> str:
    point = "" if gate.point is None else f"at {gate.point}"
    return " ".join(part for part in (gate.metric, gate.attack, point) if part) or "all"


def _zip(cells: tuple[object, ...], labels: list[str]) -> list[tuple[str, object]]:
    return list(zip(labels, cells, strict=True))
