"""What a sequence of requests comes to: in sentences, and as two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.report.comparison._sheets import Sheet

Found = Mapping[str, Any]
_REQUESTS = "Levels are of the right answers to a request: at the start of the sequence, before its fit and after it."
_LOOKS = (
    "After so many requests all were looked at again. Degree and utility are FIT's, 1 where the model is on the way from "
    "the start to one that never knew."
)


def sentences(found: Found) -> list[str]:
    """How many requests passed, and how much came back."""
    count, failed, undone = len(found["requests"]), found["failed"], found["undone"]
    back = found["most_came_back"]
    carried_out = f"{count} requests are in effect: {count - failed} passed all gates, {failed} did not."
    return [
        carried_out + (f" {undone} {'was' if undone == 1 else 'were'} undone." if undone else ""),
        "No request was looked at again."
        if back is None
        else f"The most of an earlier request that came back: {percent(back)} of what was known at the start.",
    ]


def sheets_of(found: Found) -> list[Sheet]:
    """The requests, and the times that all were looked at again; what is empty is left out."""
    return [sheet for sheet in (_requests(found), _looks(found)) if sheet.rows]


def _requests(found: Found) -> Sheet:
    head = ["request", "at the start", "before", "after", "left", "retained", "steps", "seconds", "gates"]
    rows = [
        [
            row["request"],
            *(number(row[name]) for name in ("start", "before", "after")),
            *(percent(row[name]) for name in ("left", "retained")),
            "-" if row["steps"] is None else str(row["steps"]),
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "\n".join(row["failed"]) or "passed",
        ]
        for row in found["requests"]
    ]
    return Sheet("Request by request", head, rows, _REQUESTS)


def _looks(found: Found) -> Sheet:
    head = ["after", "asked for", "to come", "must stay", "most came back", "forget degree", "retain utility"]
    rows = [
        [
            f"{look['requests']} requests",
            *(number(look[name]) for name in ("asked", "to_come", "retain")),
            percent(max(look["came_back"].values(), default=None)),
            *(number(look.get(name)) for name in ("forget_degree", "retain_utility")),
        ]
        for look in found["looks"]
    ]
    return Sheet("All looked at again", head, rows, _LOOKS)


def number(value: float | None) -> str:
    """To three places."""
    return "-" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """Of a share."""
    return "-" if value is None else f"{value:.0%}"
