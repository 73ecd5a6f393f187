"""What the statistics found beside the verdict: one line for each entry of the summary that has no place elsewhere."""

import math
from typing import Any

from lightning_unlearn.report.schema import RobustnessReport
from lightning_unlearn.report.schema._words import name, number, plain

ELSEWHERE = frozenset(
    {"headline_metric", "utility_metric", "unlearned_step", "verdict", "deployment", "worst", "worst_deployment"}
)
"""Entries of the summary that the page shows in places of their own."""

WORDS: dict[str, str] = {}
"""Names for readers, where an entry's own name says too little."""


def further_facts(report: RobustnessReport) -> dict[str, str]:
    """Entries of the summary, in words, by their names."""
    facts = {key: value for key, value in report.summary.items() if key not in ELSEWHERE}
    return {WORDS.get(key, name(key)): _words(value) for key, value in facts.items() if value not in (None, {}, [], "")}


def _words(value: Any) -> str:
    if isinstance(value, dict) and "value" in value and "low" in value:  # an interval
        ends = "" if value["low"] is None else f" [{_words(value['low'])}, {_words(value['high'])}]"
        return _words(value["value"]) + ends
    if isinstance(value, dict):
        return "; ".join(f"{name(str(key))}: {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else "undefined"
    return "-" if value is None else plain(value)
