"""The plots of a report: those for which it has data."""

from collections.abc import Iterator, Mapping
from functools import partial

from lightning_unlearn.report.render import _curves
from lightning_unlearn.report.render._alt import curves_in_words, recoveries_in_words
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
from lightning_unlearn.report.render._effort import draw_effort, efforts
from lightning_unlearn.report.render._ladder import BITS, draw_ladder, ladder
from lightning_unlearn.report.render._panel import Panel
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, percent


def panels(report: RobustnessReport) -> list[Panel]:
    """All panels for which there is something to draw."""
    return [
        *_against_effort(report),
        *_over_points(report),
        *_ladder(report),
        *_over_the_run(report),
        *_training(report),
    ]


def _against_effort(report: RobustnessReport) -> Iterator[Panel]:
    metric = report.summary["headline_metric"]
    bounds = next((o.bounds for o in report.observations if o.metric == metric), None)
    found = efforts(report)
    for unit in dict.fromkeys(effort.unit for effort in found.values()):
        attacks = {attack: effort for attack, effort in found.items() if effort.unit == unit}
        beside = " beside a model that never knew" if any(effort.control for effort in attacks.values()) else ""
        against = "attack steps" if unit == "step" else unit or "strength"
        draw = partial(draw_effort, attacks=attacks, styles=_attack_styles(report), label=name(metric), bounds=bounds)
        curves = {a: [(p, i.value) for p, i in effort.unlearned] for a, effort in attacks.items()}
        curves |= {f"{a}, model that never knew": [(p, i.value) for p, i in e.control] for a, e in attacks.items()}
        yield Panel(f"Knowledge of the forget set against {against}{beside}", draw, curves_in_words(curves))


def _ladder(report: RobustnessReport) -> Iterator[Panel]:
    if attacks := ladder(report):
        draw = partial(draw_ladder, attacks=attacks, styles=_attack_styles(report))
        yield Panel("What rounding to fewer bits brings back", draw, recoveries_in_words(attacks))


def _over_the_run(report: RobustnessReport) -> Iterator[Panel]:
    headline, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    for split, metric in (("forget", headline), ("retain", utility)):
        curves = _curves.over_steps(report, metric, split)
        if _has_curve(curves):
            bounds = next((o.bounds for o in report.observations if o.metric == metric), None)
            draw = partial(draw_steps, curves=curves, styles=_styles(curves), label=name(metric), bounds=bounds)
            yield Panel(f"{split.capitalize()} set: {name(metric)} over the run", draw, curves_in_words(curves))
    recovery, worst_points = _curves.recovery_over_steps(report), _curves.worst_points(report)
    if _has_curve(recovery):
        grey = {_curves.label(worst) for worst in worst_points if not worst.is_verdict}
        styles = {who: as_grey(style) if who in grey else style for who, style in _styles(recovery).items()}
        adjusted = any(worst.adjusted is not None for worst in worst_points)
        title = "Recovery over the run" + (", control not taken off" if adjusted else "")
        yield Panel(title, partial(draw_recovery, curves=recovery, styles=styles), curves_in_words(recovery, percent))


def _over_points(report: RobustnessReport) -> Iterator[Panel]:
    styles = _attack_styles(report)
    for unit, attacks in _curves.over_points(report).items():
        if unit == BITS:
            continue  # the ladder shows them, with those that round to one number of bits only
        adjusted = any(recovery.adjusted is not None for recoveries in attacks.values() for recovery in recoveries)
        what = "recovery beyond the control" if adjusted else "recovery"
        title = f"Relearning: {what} against attack steps"
        title = title if unit == "step" else f"{what.capitalize()} against {unit or 'strength'}"
        yield Panel(
            title, partial(draw_points, attacks=attacks, styles=styles, unit=unit), recoveries_in_words(attacks)
        )


def _training(report: RobustnessReport) -> Iterator[Panel]:
    if losses := _curves.training(report, ("forget", "retain")):
        yield Panel("Training losses", partial(draw_training, curves=losses, label="loss"), curves_in_words(losses))
    if cosine := _curves.training(report, ("cosine",)):
        title = "Cosine of the forget and retain gradients"
        yield Panel(title, partial(draw_training, curves=cosine, label="cosine"), curves_in_words(cosine))


def _attack_styles(report: RobustnessReport) -> dict[str, LineStyle]:
    return {worst.attack: style_of(index) for index, worst in enumerate(_curves.worst_points(report))}


def _styles(curves: Mapping[str, Curve]) -> dict[str, LineStyle]:
    attacks = [who for who in curves if who != _curves.STUDENT]
    return {who: style_of(attacks.index(who) if who in attacks else -1) for who in curves}


def _has_curve(curves: Mapping[str, Curve]) -> bool:
    """Whether anything was observed at two steps: an audit of a finished model has but one, of several models."""
    return any(len({step for step, _ in curve}) > 1 for curve in curves.values())
