"""Curves: each panel is drawn once, for ``curves.png`` and, following the reader's theme, for the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from lightning_unlearn.report import _series as series
from lightning_unlearn.report._colours import LIGHT, themed
from lightning_unlearn.report._draw import (
    Curve,
    LineStyle,
    as_grey,
    columns_for,
    draw_points,
    draw_recovery,
    draw_steps,
    draw_training,
    literal,
    style_of,
)
from lightning_unlearn.report._words import name

if TYPE_CHECKING:
    from lightning_unlearn.report._report import RobustnessReport

PANEL = (4.6, 3.1)
"""Width and height of a panel, in inches."""


@dataclass(frozen=True)
class Panel:
    """One plot.

    Args:
        title: What it shows.
        draw: Draws it on matplotlib axes.
    """

    title: str
    draw: Callable[[Any], None]

    def to_svg(self) -> str:
        """Inline SVG in the page's own colours and type."""
        figure = _figure(*PANEL)
        self.draw(figure.subplots())
        # text stays text: it can be searched, read aloud and takes the page's font
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            return _inline(_bytes(figure, format="svg", transparent=True, metadata=_NO_METADATA).decode(), self.title)


_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def panels(report: RobustnessReport) -> list[Panel]:
    """All panels for which there is something to draw."""
    headline, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    forget, retain = (series.over_steps(report, *what) for what in ((headline, "forget"), (utility, "retain")))
    recovery, worst_points = series.recovery_over_steps(report), series.worst_points(report)
    grey = {series.label(worst) for worst in worst_points if not worst.is_verdict}
    drawn = []
    if _has_curve(forget):
        drawn.append(_over_run(report, "Forget set", headline, forget))
    if _has_curve(retain):
        drawn.append(_over_run(report, "Retain set", utility, retain))
    if _has_curve(recovery):
        styles = {who: as_grey(style) if who in grey else style for who, style in _styles(recovery).items()}
        adjusted = any(worst.adjusted is not None for worst in worst_points)
        title = "Recovery over the run" + (" (no control taken off)" if adjusted else "")
        drawn.append(Panel(title, partial(draw_recovery, curves=recovery, styles=styles)))
    styles = {worst.attack: style_of(index) for index, worst in enumerate(worst_points)}
    for unit, attacks in series.over_points(report).items():
        title = (
            "Relearning: recovery against attack steps" if unit == "step" else f"Recovery against {unit or 'strength'}"
        )
        drawn.append(Panel(title, partial(draw_points, attacks=attacks, styles=styles, unit=unit)))
    if losses := series.training(report, ("forget", "retain")):
        drawn.append(Panel("Training losses", partial(draw_training, curves=losses, label="loss")))
    if cosine := series.training(report, ("cosine",)):
        title = "Cosine of the forget and retain gradients"
        drawn.append(Panel(title, partial(draw_training, curves=cosine, label="cosine")))
    return drawn


def _over_run(report: RobustnessReport, which: str, metric: str, curves: dict[str, Curve]) -> Panel:
    bounds = next((observation.bounds for observation in report.observations if observation.metric == metric), None)
    draw = partial(draw_steps, curves=curves, styles=_styles(curves), label=name(metric), bounds=bounds)
    return Panel(f"{which}: {name(metric)} over the run", draw)


def to_png(report: RobustnessReport) -> bytes:
    """All panels on one light sheet."""
    drawn = panels(report)
    rows = max(1, -(-len(drawn) // 2))
    figure = _figure(2 * PANEL[0], rows * (PANEL[1] + 0.3))
    figure.set_facecolor(LIGHT["paper"])
    for axes, panel in zip(figure.subplots(rows, 2, squeeze=False).flat, drawn, strict=False):
        panel.draw(axes)
        labels = axes.get_legend_handles_labels()[1]
        pad = 8 + 13.5 * -(-len(labels) // columns_for(labels))
        axes.set_title(literal(panel.title), fontsize=10, color=LIGHT["ink"], loc="left", weight="bold", pad=pad)
    for axes in figure.axes[len(drawn) :]:
        axes.set_axis_off()
    return _bytes(figure, format="png", dpi=150)


def _styles(curves: Mapping[str, Curve]) -> dict[str, LineStyle]:
    attacks = [who for who in curves if who != series.STUDENT]
    return {who: style_of(attacks.index(who) if who in attacks else -1) for who in curves}


def _has_curve(curves: Mapping[str, Curve]) -> bool:
    return any(len(curve) > 1 for curve in curves.values())


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _bytes(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _inline(svg: str, title: str) -> str:
    head, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    return themed(f'<svg class="plot" role="img" {box[0] if box else ""}><title>{escape(title)}</title>{body}')
