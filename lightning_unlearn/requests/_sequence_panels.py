"""The curves of a sequence of requests, each as one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning_unlearn.report.render._palette import LIGHT
from lightning_unlearn.report.render._panel import SIZE, Panel, report_style, to_bytes

Found = Mapping[str, Any]
Points = Sequence[tuple[float, float]]
_SOLID: Mapping[str, Any] = {"linestyle": "-", "marker": "o"}
_DASHED: Mapping[str, Any] = {"linestyle": "--", "marker": ""}
_DOTS: Mapping[str, Any] = {"linestyle": "", "marker": "o"}
_CROSSES: Mapping[str, Any] = {"linestyle": "", "marker": "x"}


def panels_of(found: Found) -> list[Panel]:
    """What is known after each look, what is left and came back, the way to a model that never knew, and what it cost."""
    most = len(found["requests"])
    shown = [
        ("How much is known", "level", _levels(found), "the levels"),
        ("What is left, and what came back", "share of the start", _left(found), "the shares"),
        ("The way to a model that never knew", "level", _targets(found), "the levels, and where they should be"),
    ]
    panels = [
        Panel(title, partial(_draw, label=label, lines=lines, most=most), _words(words, lines))
        for title, label, lines, words in shown
        if any(points for _, _, _, points in lines)
    ]
    costs = [(place, row["seconds"]) for place, row in _by_place(found) if row["seconds"] is not None]
    if costs:
        words = f"the seconds of each request, at most {max(cost for _, cost in costs):.1f}"
        panels.append(Panel("What each request cost", partial(_draw_costs, costs=costs, most=most), words))
    return panels


def drawn(found: Found) -> bytes:
    """All of them in one picture, PNG; an empty one if there is nothing to be seen."""
    from matplotlib.figure import Figure  # here, since it takes longer than all of this package

    panels = panels_of(found)
    with report_style():
        figure = Figure(figsize=(SIZE[0] * max(len(panels), 1), SIZE[1] + 0.3))
        for place, panel in enumerate(panels, start=1):
            panel.draw(axes := figure.add_subplot(1, len(panels), place))
            axes.set_title(panel.title, pad=38)
        return to_bytes(figure, format="png")


Line = tuple[str, str, Mapping[str, Any], Points]


def _levels(found: Found) -> list[Line]:
    lines = (("asked", "asked for", "attack-0"), ("to_come", "to come", "grey"), ("retain", "must stay", "student"))
    return [(label, role, _SOLID, _of_looks(found, name)) for name, label, role in lines]


def _left(found: Found) -> list[Line]:
    left = [(place, row["left"]) for place, row in _by_place(found) if row["left"] is not None]
    back = [(look["requests"], share) for look in found["looks"] for share in look["came_back"].values()]
    return [
        ("left of each request", "student", _DOTS, left),
        ("came back, of each before it", "attack-0", _CROSSES, back),
    ]


def _targets(found: Found) -> list[Line]:
    if not any(look.get("forget_target") is not None for look in found["looks"]):
        return []
    return [
        ("of all requests", "attack-0", _SOLID, _of_looks(found, "of_all")),
        ("where it should be", "attack-0", _DASHED, _of_looks(found, "forget_target")),
        ("must stay", "student", _SOLID, _of_looks(found, "retain")),
        ("where it should be", "student", _DASHED, _of_looks(found, "retain_target")),
    ]


def _of_looks(found: Found, name: str) -> Points:
    looks = [found["beginning"], *found["looks"]] if found["looks"] else []
    return [(look["requests"], look[name]) for look in looks if look.get(name) is not None]


def _by_place(found: Found) -> list[tuple[int, Any]]:
    return list(enumerate(found["requests"], start=1))


def _words(what: str, lines: Sequence[Line]) -> str:
    ends = [
        f"{label}: {points[-1][1]:.2f} after {points[-1][0]:.0f} requests" for label, _, _, points in lines if points
    ]
    return f"{what}, at the end. {'; '.join(ends)}"


def _draw(axes: Any, *, label: str, lines: Sequence[Line], most: int) -> None:
    for name, role, look, points in lines:
        if points:
            axes.plot(*zip(*points, strict=True), color=LIGHT[role], label=name, **look)
    axes.set_ylabel(label)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(0.0, bottom), max(0.1, top))  # of nearly nothing, nearly nothing is shown
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    _count_requests(axes, most)


def _draw_costs(axes: Any, *, costs: Points, most: int) -> None:
    axes.bar(*zip(*costs, strict=True), color=LIGHT["student"])
    axes.set_ylabel("seconds")
    _count_requests(axes, most)


def _count_requests(axes: Any, most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("requests")
    margin = 0.03 * most + 0.1
    axes.set_xlim(-margin, most + max(margin, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
