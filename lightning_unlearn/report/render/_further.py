"""What the statistics found beside the verdict: each entry of the summary that has no place elsewhere, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_unlearn.observation import strength
from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, number, plain

ELSEWHERE = frozenset(
    {"headline_metric", "utility_metric", "unlearned_step", "verdict", "deployment", "worst", "worst_deployment"}
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
    "median_effort": "median effort for half of it",
    "to_90": "steps to 90 %",
    "to_half": "steps to half",
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
    """Entries of the summary that are lists of the same fields."""
    return [_table(_named(key), rows) for key, rows in _entries(report).items() if _is_table(rows)]


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
