from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_unlearn.requests._folder import SequenceFolder
from lightning_unlearn.requests._measured import Known
from lightning_unlearn.requests._sequence_curves import sequence_curves
from lightning_unlearn.runtime import written_whole

Found = Mapping[str, Any]
_LINES = {"asked": "what was asked for", "to_come": "what is to come", "retain": "what must stay"}


def write_sequence_report(folder: str | Path, control: Known | None = None) -> Path:
    """Write the report of a sequence of requests: ``sequence.json``, ``sequence.png`` and ``sequence.md``.

    Args:
        folder: That of a :class:`RequestSequence`.
        control: What a model that never knew has of each request: see :meth:`RequestSequence.known`.

    Returns:
        The path of ``sequence.md``.

    Raises:
        ValueError: If the ledger is not as it was written.
    """
    files = SequenceFolder(folder)
    entries = files.checked_entries()
    found = sequence_curves(entries, files.costs(), control)
    with written_whole(files.path / "sequence.json") as new:
        new.write_text(json.dumps({**found, "head": entries[-1].hash if entries else None}, indent=1) + "\n")
    with written_whole(files.path / "sequence.png") as new:
        new.write_bytes(_drawn(found))
    path = files.path / "sequence.md"
    with written_whole(path) as new:
        new.write_text(to_markdown(found), encoding="utf-8")
    return path


def to_markdown(found: Found) -> str:
    """Two tables: the requests, and the times that all were looked at again."""
    return "\n".join(
        ["# A sequence of requests", "", *_sentences(found), "", *_requests(found), "", *_looks(found), ""]
    )


def _sentences(found: Found) -> list[str]:
    number, failed, undone = len(found["requests"]), found["failed"], found["undone"]
    back = found["most_came_back"]
    return [
        f"{number} requests are in effect, {number - failed} passed all gates, {failed} failed one; {undone} were undone.",
        "No request was looked at again."
        if back is None
        else f"The most of an earlier request that came back: {_percent(back)} of what was known at the start.",
        *(["![Curves over requests](sequence.png)"] if number else []),
    ]


def _requests(found: Found) -> list[str]:
    head = ["request", "at the start", "before", "after", "left", "retained", "steps", "seconds", "gates"]
    rows = [
        [
            row["request"].replace("|", "/"),
            *(_number(row[name]) for name in ("start", "before", "after")),
            *(_percent(row[name]) for name in ("left", "retained")),
            "-" if row["steps"] is None else str(row["steps"]),
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "; ".join(row["failed"]).replace("|", "/") or "passed",
        ]
        for row in found["requests"]
    ]
    return _table(head, rows)


def _looks(found: Found) -> list[str]:
    head = ["after", "asked for", "to come", "must stay", "most came back", "forget degree", "retain utility"]
    rows = [
        [
            f"{look['requests']} requests",
            *(_number(look[name]) for name in ("asked", "to_come", "retain")),
            _percent(max(look["came_back"].values(), default=None)),
            *(_number(look.get(name)) for name in ("forget_degree", "retain_utility")),
        ]
        for look in found["looks"]
    ]
    return _table(head, rows) if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _drawn(found: Found) -> bytes:
    from matplotlib.figure import Figure  # here, since it takes longer than all of this package

    from lightning_unlearn.report.render._panel import SIZE, report_style, to_bytes

    draws = [partial(_draw_levels, found=found), partial(_draw_left, found=found), partial(_draw_cost, found=found)]
    with report_style():
        figure = Figure(figsize=(SIZE[0] * len(draws), SIZE[1] + 0.3))
        for axes, draw in zip(figure.subplots(1, len(draws)), draws, strict=True):
            draw(axes)
            axes.set_xlabel("requests")
        return to_bytes(figure, format="png")


def _draw_levels(axes: Any, *, found: Found) -> None:
    from lightning_unlearn.report.render._palette import LIGHT

    for (name, label), role in zip(_LINES.items(), ("attack-0", "grey", "student"), strict=True):
        points = [(look["requests"], look[name]) for look in found["looks"] if look[name] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=LIGHT[role], marker="o", label=label)
    axes.set_ylabel("level")
    if found["looks"]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _draw_left(axes: Any, *, found: Found) -> None:
    from lightning_unlearn.report.render._palette import LIGHT

    places = {row["request"]: place for place, row in enumerate(found["requests"], start=1)}
    left = [(places[row["request"]], row["left"]) for row in found["requests"] if row["left"] is not None]
    back = [(look["requests"], share) for look in found["looks"] for share in look["came_back"].values()]
    if left:
        axes.plot(*zip(*left, strict=True), color=LIGHT["student"], marker="o", label="left of each request")
    if back:
        axes.plot(*zip(*back, strict=True), "x", color=LIGHT["attack-0"], label="came back, of each earlier one")
    axes.set_ylabel("share of the start")
    if left or back:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=1)


def _draw_cost(axes: Any, *, found: Found) -> None:
    from lightning_unlearn.report.render._palette import LIGHT

    cost = [
        (place, row["seconds"]) for place, row in enumerate(found["requests"], start=1) if row["seconds"] is not None
    ]
    if cost:
        axes.bar(*zip(*cost, strict=True), color=LIGHT["student"])
    axes.set_ylabel("seconds")
