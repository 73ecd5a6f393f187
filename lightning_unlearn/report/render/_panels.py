"""The plots of a report: those for which it has data."""

from collections.abc import Iterator, Mapping
from functools import partial

from lightning_unlearn.report.render import _curves
from lightning_unlearn.report.render._curves import Curve
from lightning_unlearn.report.render._draw import (
    LineStyle,
    as_grey,
    draw_points,
    draw_recovery,
    draw_steps,
    draw_training,
    style_of,
)
from lightning_unlearn.report.render._panel import Panel
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name


def panels(report: RobustnessReport) -> list[Panel]:
    """All panels for which there is something to draw."""
    return [*_over_the_run(report), *_over_points(report), *_training(report)]


def _over_the_run(report: RobustnessReport) -> Iterator[Panel]:
    headline, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    for split, metric in (("forget", headline), ("retain", utility)):
        curves = _curves.over_steps(report, metric, split)
        if _has_curve(curves):
            bounds = next((o.bounds for o in report.observations if o.metric == metric), None)
            draw = partial(draw_steps, curves=curves, styles=_styles(curves), label=name(metric), bounds=bounds)
            yield Panel(f"{split.capitalize()} set: {name(metric)} over the run", draw)
    recovery, worst_points = _curves.recovery_over_steps(report), _curves.worst_points(report)
    if _has_curve(recovery):
        grey = {_curves.label(worst) for worst in worst_points if not worst.is_verdict}
        styles = {who: as_grey(style) if who in grey else style for who, style in _styles(recovery).items()}
        adjusted = any(worst.adjusted is not None for worst in worst_points)
        title = "Recovery over the run" + (", control not taken off" if adjusted else "")
        yield Panel(title, partial(draw_recovery, curves=recovery, styles=styles))


def _over_points(report: RobustnessReport) -> Iterator[Panel]:
    styles = {worst.attack: style_of(index) for index, worst in enumerate(_curves.worst_points(report))}
    for unit, attacks in _curves.over_points(report).items():
        adjusted = any(recovery.adjusted is not None for recoveries in attacks.values() for recovery in recoveries)
        what = "recovery beyond the control" if adjusted else "recovery"
        title = f"Relearning: {what} against attack steps"
        title = title if unit == "step" else f"{what.capitalize()} against {unit or 'strength'}"
        yield Panel(title, partial(draw_points, attacks=attacks, styles=styles, unit=unit))


def _training(report: RobustnessReport) -> Iterator[Panel]:
    if losses := _curves.training(report, ("forget", "retain")):
        yield Panel("Training losses", partial(draw_training, curves=losses, label="loss"))
    if cosine := _curves.training(report, ("cosine",)):
        title = "Cosine of the forget and retain gradients"
        yield Panel(title, partial(draw_training, curves=cosine, label="cosine"))


def _styles(curves: Mapping[str, Curve]) -> dict[str, LineStyle]:
    attacks = [who for who in curves if who != _curves.STUDENT]
    return {who: style_of(attacks.index(who) if who in attacks else -1) for who in curves}


def _has_curve(curves: Mapping[str, Curve]) -> bool:
    return any(len(curve) > 1 for curve in curves.values())
