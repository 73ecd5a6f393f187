"""Drawing on matplotlib axes, in the palette's light colours; all other style is in ``report.mplstyle``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_unlearn.functional.text import visible
from lightning_unlearn.report.render._curves import Curve
from lightning_unlearn.report.render._palette import ATTACKS, LIGHT, MARKERS
from lightning_unlearn.report.schema import Recovery
from lightning_unlearn.report.schema._words import SHOWN

STEP_OF_RUN = "step of the run"
"""Label of the horizontal axis over a run."""
LONGEST = 44
"""Characters of a name that fit into a panel."""
LineStyle = dict[str, Any]
"""Colour and marker of a line; an attack keeps its own in every panel."""


def draw_steps(
    axes: Any,
    *,
    curves: Mapping[str, Curve],
    styles: Mapping[str, LineStyle],
    label: str,
    bounds: tuple[float, float] | None,
) -> None:
    _lines(axes, curves, styles)
    if bounds:
        margin = 0.04 * (bounds[1] - bounds[0])
        axes.set_ylim(bounds[0] - margin, bounds[1] + margin)
    label_axes(axes, x=STEP_OF_RUN, y=label)


def draw_recovery(axes: Any, *, curves: Mapping[str, Curve], styles: Mapping[str, LineStyle]) -> None:
    _lines(axes, curves, styles)
    recovery_axis(axes)
    label_axes(axes, x=STEP_OF_RUN, y="recovery")


def draw_points(
    axes: Any, *, attacks: Mapping[str, list[Recovery]], styles: Mapping[str, LineStyle], unit: str
) -> None:
    for attack, recoveries in attacks.items():
        _draw_attack(axes, attack, recoveries, styles[attack], start=unit == "step")
    recovery_axis(axes)
    point_axis(axes, [recovery.point for recoveries in attacks.values() for recovery in recoveries], unit)
    label_axes(axes, x="step of the attack" if unit == "step" else unit or "strength", y="recovery")


def _draw_attack(axes: Any, attack: str, recoveries: list[Recovery], style: LineStyle, *, start: bool) -> None:
    # Step 0 is the unattacked model, which has brought back nothing by definition.
    origin = [(0, 0.0)] if start and recoveries[0].point > 0 else []
    line = [*origin, *[(recovery.point, recovery.shown.value) for recovery in recoveries]]
    axes.plot(*zip(*line, strict=True), label=literal(attack), **style)
    if any(recovery.adjusted is not None for recovery in recoveries):
        raw = [*origin, *[(recovery.point, recovery.rho.value) for recovery in recoveries]]
        axes.plot(*zip(*raw, strict=True), label=literal(f"{attack}, control not taken off"), **as_raw(style))
    band = [
        (recovery.point, recovery.shown.low, recovery.shown.high)
        for recovery in recoveries
        if recovery.shown.low is not None
    ]
    if band:
        axes.fill_between(
            *zip(*[(*point, point[1]) for point in origin], *band, strict=True),
            color=style["color"],
            alpha=0.18,
            lw=0,
        )
    grey = [(recovery.point, recovery.shown.value) for recovery in recoveries if not recovery.is_verdict]
    if grey:
        axes.plot(*zip(*grey, strict=True), **{**as_grey(style), "linestyle": "none", "zorder": 4})


def draw_training(axes: Any, *, curves: Mapping[str, Curve], label: str) -> None:
    for what, curve in curves.items():
        role = "attack-0" if what == "forget" else "student"
        axes.plot(*zip(*curve, strict=True), label=what, color=LIGHT[role], linewidth=1.6)
    label_axes(axes, x=STEP_OF_RUN, y=label)


def _lines(axes: Any, curves: Mapping[str, Curve], styles: Mapping[str, LineStyle]) -> None:
    for who, curve in curves.items():
        if curve:
            axes.plot(*zip(*curve, strict=True), label=literal(who), **styles[who])


def style_of(index: int) -> LineStyle:
    role = "student" if index < 0 else ATTACKS[index % len(ATTACKS)]
    marker = "o" if index < 0 else MARKERS[index % len(MARKERS)]
    return {
        "color": LIGHT[role],
        "marker": marker,
        "linewidth": 1.8 if index < 0 else 1.4,
        "linestyle": "-" if index < len(ATTACKS) else "--",
    }


def as_grey(style: LineStyle) -> LineStyle:
    return {**style, "color": LIGHT["grey"], "markerfacecolor": LIGHT["card"], "linestyle": ":"}


def as_raw(style: LineStyle) -> LineStyle:
    """Style of the second line of an attack: raw recovery, without subtracting the control."""
    return {**style, "linestyle": ":", "linewidth": 1.1, "marker": "none"}


def point_axis(axes: Any, points: Iterable[float], unit: str) -> None:
    """An axis of the strength of attacks, with a tick at each point."""
    ticks = sorted(set(points))
    # Steps grow like 1, 2, 5, 10: a log axis spaces them evenly, and a symmetric one has room for 0.
    if unit == "step":
        ticks = sorted({0, *ticks})
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.15, 1.2 * ticks[-1])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def recovery_axis(axes: Any) -> None:
    """An axis of recovery."""
    # 0: as forgotten as before the attack. 1, dashed: as known as before unlearning.
    for level, style in ((0.0, "-"), (1.0, (0, (4, 3)))):
        axes.axhline(level, color=LIGHT["grey"], linewidth=0.8, linestyle=style, zorder=1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(min(low, -0.1), SHOWN[0]), min(max(high, 1.1), SHOWN[1]))


def label_axes(axes: Any, *, x: str, y: str) -> None:
    """Names of both axes, and the legend."""
    axes.set_xlabel(literal(x))
    axes.set_ylabel(literal(y))
    if x == STEP_OF_RUN:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if labels := axes.get_legend_handles_labels()[1]:
        # above the axes, where it can hide no point
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns_for(labels))


def columns_for(labels: Sequence[str]) -> int:
    return 1 if max(map(len, labels), default=0) > LONGEST // 2 else 2


def literal(text: str) -> str:
    text = visible(text)
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return short.replace("$", r"\$")  # a dollar would start a formula
