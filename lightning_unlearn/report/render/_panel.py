"""One plot: drawn on a sheet, or inline in the page in the reader's colours."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.render._palette import themed

SIZE = (4.6, 3.1)
"""Width and height of a panel, in inches."""
# The drawing is a part of the page, which has its own date: no date and no program name in it.
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Panel:
    """One plot.

    Args:
        title: What it shows.
        draw: Draws it on matplotlib axes.
        words: The same in words, for those who do not see it.
    """

    title: str
    draw: Callable[[Any], None]
    words: str = ""

    def to_svg(self) -> Markup:
        """Inline SVG in the page's own colours and type."""
        with report_style():
            figure = Figure(figsize=SIZE)
            self.draw(figure.subplots())
            drawn = to_bytes(figure, format="svg", transparent=True, metadata=_NO_METADATA).decode()
        return _inline(drawn, self.title, self.words)


@contextmanager
def report_style() -> Iterator[None]:
    """Draw in the report's style. The user's own matplotlib style comes back afterwards."""
    with matplotlib.style.context(Path(__file__).with_name("report.mplstyle"), after_reset=True):
        yield


def to_bytes(figure: Figure, **options: Any) -> bytes:
    """A figure as a file in memory."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "constrained_layout not applied")
        try:
            figure.savefig(buffer, **options)
        except UserWarning:  # labels that need more than the whole figure: let it grow around them
            figure.set_layout_engine("none")
            figure.savefig(buffer := io.BytesIO(), bbox_inches="tight", **options)
    return buffer.getvalue()


def _inline(svg: str, title: str, words: str) -> Markup:
    head, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)  # the size only: the font is the page's
    # matplotlib escapes the texts it draws, so what it wrote is markup already
    told = f"<title>{escape(visible(title))}</title><desc>{escape(visible(words))}</desc>"
    return Markup(themed(f'<svg class="plot" role="img" {box[0] if box else ""}>{told}{body}'))
