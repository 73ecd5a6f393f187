"""What a ledger says of a whole sequence: curves over requests, what came back, and what each request cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_unlearn.report import symmetric_degree
from lightning_unlearn.requests._ledger import Entry, in_effect
from lightning_unlearn.requests._measured import Known
from lightning_unlearn.requests._request import RETAIN
from lightning_unlearn.requests._request_gates import came_back

Found = dict[str, Any]


def sequence_curves(entries: Sequence[Entry], costs: Mapping[int, float], control: Known | None = None) -> Found:
    """Curves over the requests that are in effect.

    Args:
        entries: Of a ledger.
        costs: Seconds, by number of the entry.
        control: What a model that never knew has of each request and of what must stay, as of
            :meth:`RequestSequence.known`.

    Returns:
        ``requests``, one each; ``looks``, one for each time that all were looked at again, and ``beginning``, the same
        at the start, if there are any; ``most_came_back``, ``failed``, ``seconds``, ``undone``. A look is the mean level of
        what was ``asked`` for and of what is ``to come``, what ``came_back`` by request, and, with a control, the level
        ``of_all`` requests, the ``forget_target`` and ``retain_target`` on the way to it, and FIT's ``forget_degree`` and
        ``retain_utility``.
    """
    done = in_effect(entries)[1:]
    looks = [_look(done[: place + 1], control) for place, entry in enumerate(done) if "audited" in entry.figures]
    rows = [_row(entry, costs.get(entry.number)) for entry in done]
    back = [share for look in looks for share in look["came_back"].values()]
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return {
        "requests": rows,
        "beginning": _beginning(looks, done),
        "looks": looks,
        "most_came_back": max(back, default=None),
        "failed": sum(not entry.passed for entry in done),
        "seconds": sum(known) if len(known) == len(rows) else None,
        "undone": sum(entry.kind == "request" for entry in entries) - len(done),
    }


def target(start: float, control: float, share: float) -> float:
    """Where a sequence should be when a share of it is done: on the line from the start to a model that never knew.

    Example:
        >>> target(0.8, 0.2, 0.5)
        0.5

    References:
        Xu et al., `FIT <https://arxiv.org/abs/2601.21682>`_, 2026.
    """
    return (1 - share) * start + share * control


def _row(entry: Entry, seconds: float | None) -> Found:
    forget, retain = entry.figures["forget"], entry.figures["retain"]
    return {
        "number": entry.number,
        "request": entry.request,
        **{name: forget[name] for name in ("start", "before", "after")},
        "left": _share(forget["after"], forget["start"]),
        "retained": _share(retain["after"], retain["start"]),
        "steps": entry.figures.get("fit", {}).get("steps"),
        "seconds": seconds,
        "failed": entry.failed,
    }


def _look(done: Sequence[Entry], control: Known | None) -> Found:
    figures = done[-1].figures
    levels, names = figures["audited"], [entry.request for entry in done]
    asked = [levels[name] for name in names if name in levels]
    to_come = [level for name, level in levels.items() if name not in names]
    look = {
        "number": done[-1].number,
        "requests": len(done),
        "asked": _mean(asked),
        "to_come": _mean(to_come),
        "retain": figures["retain"]["after"],
        "came_back": came_back(figures, done[:-1]),
    }
    return look if control is None else {**look, **_degrees(look, figures, control)}


def _beginning(looks: Sequence[Found], done: Sequence[Entry]) -> Found | None:
    """A look at the start, from what was noted of it. There, all is where it should be."""
    if not looks:
        return None
    figures = next(entry.figures for entry in reversed(done) if "start" in entry.figures)
    level, kept = _mean(list(figures["start"].values())), figures["retain"]["start"]
    wanted = {"of_all": level, "forget_target": level, "retain_target": kept} if "of_all" in looks[0] else {}
    return {"number": 0, "requests": 0, "asked": None, "to_come": level, "retain": kept, "came_back": {}, **wanted}


def _degrees(look: Found, figures: Mapping[str, Any], control: Known) -> Found:
    """FIT's two numbers, each between what was wanted at this request and what was found."""
    levels = figures["audited"]
    share = look["requests"] / len(levels)
    of_all, start, never = (_mean([each.get(name) for name in levels]) for each in (levels, figures["start"], control))
    forget = _target(start, never, share)
    retain = _target(figures["retain"]["start"], control.get(RETAIN), share)
    return {
        "of_all": of_all,
        "forget_target": forget,
        "retain_target": retain,
        "forget_degree": _degree(of_all, forget),
        "retain_utility": _degree(look["retain"], retain),
    }


def _target(start: float | None, never: float | None, share: float) -> float | None:
    return None if start is None or never is None else target(start, never, share)


def _degree(found: float | None, wanted: float | None) -> float | None:
    return None if found is None or wanted is None else symmetric_degree(found, wanted)


def _mean(levels: Sequence[float | None]) -> float | None:
    known = [level for level in levels if level is not None]
    return sum(known) / len(known) if known and len(known) == len(levels) else None


def _share(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else value / of
