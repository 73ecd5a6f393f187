"""The report of a sequence of requests as one self-contained page, like a report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_unlearn.report.render._page import rendered
from lightning_unlearn.requests._sequence_panels import panels_of
from lightning_unlearn.requests._sequence_sheets import percent, sentences, sheets_of

Found = Mapping[str, Any]


def to_page(found: Found, head: str | None) -> str:
    """The page.

    Args:
        found: As of :func:`sequence_curves`.
        head: Hash of the last entry of the ledger.
    """
    tone, word = _verdict(found)
    return rendered(
        "sequence.html.j2",
        tone=tone,
        word=word,
        sentences=sentences(found),
        tiles=_tiles(found),
        panels=panels_of(found),
        sheets=sheets_of(found),
        head=head,
    )


def _verdict(found: Found) -> tuple[str, str]:
    """The colour, and in how few words it can be said."""
    number, failed = len(found["requests"]), found["failed"]
    if not number:
        return "unknown", "Nothing was carried out"
    if failed:
        return "back", f"{failed} of {number} requests failed a gate"
    if found["most_came_back"] is None and number > 1:
        return "unknown", "All gates passed, and nothing was looked at again"
    return "held", "All requests passed all gates"


def _tiles(found: Found) -> list[tuple[str, str, str]]:
    """A name, a value, and what it is of."""
    rows = found["requests"]
    if not rows:
        return []
    left = [row["left"] for row in rows if row["left"] is not None]
    seconds = "-" if found["seconds"] is None else f"{found['seconds'] / len(rows):.1f} s"
    return [
        ("Passed", f"{len(rows) - found['failed']} of {len(rows)}", "requests passed all gates"),
        ("Left", percent(max(left, default=None)), "at most, of what a request named, right after it"),
        ("Came back", percent(found["most_came_back"]), "at most, of an earlier request, by the end of a later one"),
        ("Must stay", percent(rows[-1]["retained"]), f"is left of it after the last request; {seconds} a request"),
    ]
