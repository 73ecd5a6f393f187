"""The quantisation ladder: what comes back as the weights are rounded to fewer and fewer bits."""

import math
from collections.abc import Mapping
from typing import Any

from lightning_unlearn.report.render._draw import LineStyle, as_grey, label_axes, literal, recovery_axis
from lightning_unlearn.report.schema import Recovery, RobustnessReport

BITS = "bits"


def ladder(report: RobustnessReport) -> dict[str, list[Recovery]]:
    """Recovery by attacks that round, by their names; empty if all of them round to the same number of bits."""
    metric, found = report.summary["headline_metric"], dict[str, list[Recovery]]()
    for recovery in report.recoveries:
        if (recovery.metric, recovery.unit) == (metric, BITS) and math.isfinite(recovery.shown.value):
            found.setdefault(recovery.attack, []).append(recovery)
    steps = {recovery.point for recoveries in found.values() for recovery in recoveries}
    return {a: sorted(r, key=lambda each: -each.point) for a, r in found.items()} if len(steps) > 1 else {}


def draw_ladder(axes: Any, *, attacks: Mapping[str, list[Recovery]], styles: Mapping[str, LineStyle]) -> None:
    """From many bits on the left to few on the right, each step as wide as the next."""
    bits = sorted({recovery.point for recoveries in attacks.values() for recovery in recoveries}, reverse=True)
    for index, (attack, recoveries) in enumerate(attacks.items()):
        _rung(axes, attack, recoveries, styles[attack], bits, aside=0.09 * (index - (len(attacks) - 1) / 2))
    recovery_axis(axes)
    axes.set_xticks(range(len(bits)), [f"{each:g}" for each in bits])
    axes.set_xlim(-0.5, len(bits) - 0.5)
    axes.minorticks_off()
    label_axes(axes, x="bits per weight", y="recovery")


def _rung(
    axes: Any, attack: str, recoveries: list[Recovery], style: LineStyle, bits: list[float], aside: float
) -> None:
    # A little aside of each other: several kinds of rounding to the same bits would hide one another.
    places = [bits.index(recovery.point) + aside for recovery in recoveries]
    shown = [recovery.shown for recovery in recoveries]
    axes.plot(places, [each.value for each in shown], label=literal(attack), **style)
    for place, recovery in zip(places, recoveries, strict=True):
        if recovery.shown.low is not None:
            axes.vlines(place, recovery.shown.low, recovery.shown.high, color=style["color"], alpha=0.5, linewidth=3)
        if not recovery.is_verdict:
            axes.plot([place], [recovery.shown.value], **{**as_grey(style), "linestyle": "none", "zorder": 4})
