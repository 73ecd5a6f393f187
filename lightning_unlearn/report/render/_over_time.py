"""When each entity was forgotten, and whether it came back while the fit went on: in words, drawn, and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from lightning_unlearn.report.analysis.over_time import HALF
from lightning_unlearn.report.render._alt import curves_in_words
from lightning_unlearn.report.render._draw import STEP_OF_RUN, label_axes
from lightning_unlearn.report.render._heat import DARKEST, HeatCell, HeatMap
from lightning_unlearn.report.render._palette import LIGHT
from lightning_unlearn.report.render._panel import Panel
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import percent

ROWS, LOOKS = 30, 8
"""The most entities, and the most looks, that the table shows."""

_FLOORS = {
    "control": "a model that never knew",
    "given": "the level that was given for a model that never knew",
    "lowest": "the lowest value that the metric can have",
}


@dataclass(frozen=True)
class OverTime:
    """The entities of the forget set over the looks at a fit.

    Args:
        sentences: What happened, in words.
        panels: The same, drawn.
        table: What is left of each entity at each look; of many, a part.
        left_out: What the table does not show, in words; empty if it shows all.
    """

    sentences: list[str]
    panels: list[Panel]
    table: HeatMap
    left_out: str


def over_the_fit(report: RobustnessReport) -> OverTime | None:
    """What the page says of entities over time; None if nobody looked at them during the fit."""
    found = report.summary.get("over_time", {}).get("forgetting")  # reports of version 5 have none
    if not found:
        return None
    return OverTime([*_sentences(found)], [*_panels(found)], _table(found), _left_out(found))


def _sentences(found: Mapping[str, Any]) -> Iterator[str]:
    number, looks = len(found["curves"]), len(found["times"]) - 1
    yield (
        f"Forgotten means: at most half is left of what the original knew beyond {_FLOORS[found['floor']]}. "
        f"The fit was looked at {looks} times."
    )
    half = found["median_step"]
    when = "" if half is None else f" Half of them were forgotten by step {half:g}."
    yield f"{found['forgotten']} of {number} were forgotten at some look, and {found['at_end']} are at the end.{when}"
    back = found["came_back"]
    yield f"{back or 'None'} of them came back at a later look, while the fit went on and without an attack."
    if found["unknown"]:
        yield f"{found['unknown']} more were hardly known to the original: there was nothing to forget."
    if found["not_followed"]:
        yield f"{found['not_followed']} more were not followed: each look keeps the first entities only."


def _panels(found: Mapping[str, Any]) -> Iterator[Panel]:
    times, curves = found["times"], found["curves"]
    lines = {curve["entity"]: [*zip(times, curve["shares"], strict=True)] for curve in curves}
    draw = partial(_draw_entities, lines=list(lines.values()), typical=_typical(times, curves))
    yield Panel("What is left of each entity, over the run", draw, curves_in_words(lines, percent))
    counts = {
        "forgotten": [(time, _share_of(curves, place)) for place, time in enumerate(times)],
        "had been, and is known again": [(time, _again(curves, place, time)) for place, time in enumerate(times)],
    }
    yield Panel(
        "How many of them are forgotten, over the run",
        partial(_draw_counts, curves=counts),
        curves_in_words(counts, percent),
    )


def _typical(times: Sequence[float], curves: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The median over entities."""
    columns = (sorted(curve["shares"][place] for curve in curves) for place in range(len(times)))
    return [
        (time, (column[(len(column) - 1) // 2] + column[len(column) // 2]) / 2)
        for time, column in zip(times, columns, strict=True)
    ]


def _share_of(curves: Sequence[Mapping[str, Any]], place: int) -> float:
    return sum(bool(curve["shares"][place] <= HALF) for curve in curves) / len(curves)


def _again(curves: Sequence[Mapping[str, Any]], place: int, time: float) -> float:
    had_been = [c for c in curves if c["forgotten_at"] is not None and c["forgotten_at"] < time]
    return sum(bool(curve["shares"][place] > HALF) for curve in had_been) / len(curves)


def _draw_entities(
    axes: Any, *, lines: Sequence[list[tuple[float, float]]], typical: list[tuple[float, float]]
) -> None:
    for number, line in enumerate(lines):
        name = "each entity" if number == 0 else None
        axes.plot(*zip(*line, strict=True), color=LIGHT["grey"], linewidth=0.8, alpha=0.6, marker="none", label=name)
    axes.plot(*zip(*typical, strict=True), color=LIGHT["student"], linewidth=2.0, marker="o", label="median")
    axes.axhline(HALF, color=LIGHT["attack-0"], linewidth=1.0, linestyle=(0, (4, 3)), label="half")
    _share_axis(axes, "share that is left", [share for line in lines for _, share in line])


def _draw_counts(axes: Any, *, curves: Mapping[str, list[tuple[float, float]]]) -> None:
    for (name, curve), role, marker in zip(curves.items(), ("student", "attack-0"), ("o", "s"), strict=True):
        axes.plot(*zip(*curve, strict=True), color=LIGHT[role], marker=marker, linewidth=1.6, label=name)
    _share_axis(axes, "share of the entities", [0.0, 1.0])


def _share_axis(axes: Any, label: str, shares: Sequence[float]) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(max(min(-0.04, *shares), -0.5), min(max(1.04, *shares), 1.5))
    label_axes(axes, x=STEP_OF_RUN, y=label)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _table(found: Mapping[str, Any]) -> HeatMap:
    times, shown = found["times"], _spread(len(found["times"]), LOOKS)
    columns = ["forgotten at", "came back at", *(f"step {times[place]:g}" for place in shown)]
    rows = {curve["entity"]: _cells(curve, shown) for curve in found["curves"][:ROWS]}
    return HeatMap("Entity by entity: what is left at each look", columns, rows)


def _cells(curve: Mapping[str, Any], shown: Sequence[int]) -> list[HeatCell]:
    shares = [curve["shares"][place] for place in shown]
    left = [HeatCell(percent(share), round(DARKEST * min(max(share, 0.0), 1.0), 1)) for share in shares]
    when = [HeatCell("-" if at is None else f"step {at:g}") for at in (curve["forgotten_at"], curve["back_at"])]
    return [*when, *left]


def _spread(number: int, most: int) -> list[int]:
    """Places, the first and the last among them, evenly spread if there are too many."""
    if number <= most:
        return list(range(number))
    return [round(place * (number - 1) / (most - 1)) for place in range(most)]


def _left_out(found: Mapping[str, Any]) -> str:
    more, hidden = len(found["curves"]) - ROWS, len(found["times"]) - LOOKS
    parts = [
        f"the {ROWS} entities that are known best at the end, of {len(found['curves'])}" if more > 0 else "",
        f"{LOOKS} looks of {len(found['times'])}" if hidden > 0 else "",
    ]
    words = " and ".join(part for part in parts if part)
    return f"Shown are {words}; all are in report.json." if words else ""
