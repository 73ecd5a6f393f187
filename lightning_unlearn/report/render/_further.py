"""What the statistics found beside the verdict: each entry of the summary that has no place elsewhere, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.observation import NOT_ATTACKED, strength
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, number, plain

ELSEWHERE = frozenset(
    {"headline_metric", "utility_metric", "unlearned_step", "verdict", "deployment", "worst", "worst_deployment"}
    | {"over_time"}
)
"""Entries of the summary that the page shows in places of their own."""

WORDS = {
    "by_family": "The worst of each kind of attack",
    "by_metric": "The worst by each metric",
    "effort": "How many steps an attack needs",
    "front": "usefulness and robustness",
    "h_mean": "harmonic mean of both",
    "held_out": "worst case, by entities that did not choose it",
    "held_out_deployment": "worst deployment, by entities that did not choose it",
    "least_effort": "least effort for half of it",
    "log_area": "area, over log steps",
    "area": "area under the curve",
    "best_gain": "best gain within 50 steps",
    "decay": "share lost whenever time is multiplied by e",
    "floor": "a model that never knew",
    "forget_ratio": "share of it that was lost",
    "gone_at": "step at which nothing would be left",
    "median_effort": "median effort for half of it",
    "oscillation": "How steady the fit was, in its last half",
    "residual": "mean distance from the best value",
    "retention": "What is left over time, by split",
    "share_left": "share left at the end",
    "swing": "mean change from look to look",
    "to_90": "steps to 90 %",
    "to_half": "steps to half",
    "transfer": "What the fit took from each split",
    "turns": "share of looks at which it turned round",
    "unlearning": "degrees of unlearning",
}
"""Names for readers, where an entry's own name says too little."""


@dataclass(frozen=True)
class FurtherTable:
    """A table of the summary.

    Args:
        title: What it shows.
        columns: Heads of its columns.
        rows: Its cells.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


def further_facts(report: RobustnessReport) -> dict[str, str]:
    """Entries of the summary that are no tables, in words, by their names; and how the intervals were made."""
    facts = {_named(key): _words(value) for key, value in _entries(report).items() if not _is_table(value)}
    intervals = [level.interval for level in report.levels]
    methods = dict.fromkeys(method for each in intervals if (method := getattr(each, "method", "")))
    return facts | ({"intervals are by": "; ".join(methods)} if methods else {})


def further_tables(report: RobustnessReport) -> list[FurtherTable]:
    """Entries of the summary that are lists of the same fields, and what it says of time."""
    found = {**_entries(report), **_over_time(report)}
    return [_table(_named(key), rows) for key, rows in found.items() if rows and _is_table(rows)]


def _over_time(report: RobustnessReport) -> dict[str, Any]:
    """Tables of what happened to whole splits over time; single entities have a place of their own on the page."""
    found = report.summary.get("over_time", {})  # reports of version 5 have none
    swings = found.get("oscillation", {})
    return {
        "retention": [_kept(curve) for curve in found.get("retention", [])],
        "transfer": [row for row in found.get("transfer", []) if not row["entity"]],
        "oscillation": [{"split": split, **swing} for split, swing in swings.items()],
    }


def _kept(curve: Mapping[str, Any]) -> dict[str, Any]:
    series, decay, gain = curve["series"], curve["decay"] or {}, curve["effectivity"] or {}
    return {
        "split": series["split"],
        "over": "the fit" if series["attack"] == NOT_ATTACKED else f"the steps of {series['attack']}",
        "looks": len(series["times"]),
        "share_left": curve["shares"][-1] if curve["shares"] else None,
        "best_gain": gain.get("gain"),
        "decay": decay.get("constant"),
        "gone_at": decay.get("gone_at"),
    }


def _entries(report: RobustnessReport) -> dict[str, Any]:
    # Not `in`: 0 is an answer.
    return {
        key: value
        for key, value in report.summary.items()
        if key not in ELSEWHERE and value is not None and value not in ({}, [], "")
    }


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) for row in value)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> FurtherTable:
    keys = dict.fromkeys(key for row in rows for key in row)
    shown = [key for key in keys if any(row.get(key) is not None for row in rows)]
    return FurtherTable(title, list(map(_named, shown)), [[_words(row.get(key)) for key in shown] for row in rows])


def _named(key: str) -> str:
    return WORDS.get(key, name(key))


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    if isinstance(value, float) and not value.is_integer():
        return number(value) if math.isfinite(value) else "undefined"
    return f"{value:g}" if isinstance(value, float) else plain(value)


def _of_mapping(value: Mapping[str, Any]) -> str:
    if "words" in value:  # steps that may not have been reached: `> 100`
        about = f"{value['attack']}: " if isinstance(value.get("attack"), str) else ""
        return about + str(value["words"])
    if {"attack", "point", "unit"} <= value.keys():
        return f"{value['attack']} at {strength(value['point'], value['unit'])}"
    if {"value", "low", "high"} <= value.keys():
        ends = "" if value["low"] is None else f" [{_words(value['low'])}, {_words(value['high'])}]"
        return _words(value["value"]) + ends
    return "; ".join(f"{_named(str(key))}: {_words(item)}" for key, item in value.items())
