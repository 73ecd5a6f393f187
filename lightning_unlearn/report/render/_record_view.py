"""The record in words."""

from collections.abc import Iterator
from typing import Any

from lightning_unlearn.observation import NOT_ATTACKED, Cost
from lightning_unlearn.report.schema import Method, Record
from lightning_unlearn.report.schema._words import duration, grouped, percent

KINDS = {
    "global": "most of the weights were changed",
    "local": "a smaller part of the weights was changed",
    "architecture": "parts were added (an adapter), and the weights that were there stayed",
    "none": "no weight was changed",
}
"""Classes of methods, in words."""
_YES_OR_NO: dict[Any, str] = {True: "some were changed", False: "none"}


def record_facts(record: Record) -> dict[str, Any]:
    """What identifies models, data and code, and what the run spent."""
    facts = {
        "method": _method(record.method),
        "weights that might change": _percent(record.method.declared),
        "weights that did change": _percent(record.method.measured),
        "changed without being declared": ", ".join(record.method.undeclared[:5]),
        **{f"hash of the {model}'s weights": " ".join(hashes) for model, hashes in record.weights.items()},
        "hash of the configuration": record.config_hash,
        **{key.replace("_", " "): str(value) for key, value in record.code.items() if key != "git_dirty"},
        "files that were not committed": _YES_OR_NO.get(record.code.get("git_dirty"), ""),
        **{f"seed of {what}": str(seed) for what, seed in record.seeds.items()},
        **{_named(key): _spent(key, value) for key, value in record.budget.items()},
    }
    return {key: value for key, value in facts.items() if value}


def cost_rows(record: Record) -> Iterator[tuple[str, ...]]:
    """Attack, model, looks; then of one look its time, and the batches, examples and tokens that the attacker saw in it."""
    for cost in sorted(record.costs, key=_order):
        who = "(no attack)" if cost.attack == NOT_ATTACKED else cost.attack
        seen = (_each(number, cost.looks) for number in (cost.losses, cost.rows, cost.tokens))
        yield who, cost.subject, str(cost.looks), duration(cost.per_look), *seen


def _each(number: int, looks: int) -> str:
    return grouped(number / looks) if number else "none"


def _order(cost: Cost) -> tuple[bool, str, str]:
    return cost.attack != NOT_ATTACKED, cost.attack, cost.subject


def _method(method: Method) -> str:
    if not method.kind:
        return ""
    what = "; ".join([part for part in (method.objective, ", ".join(method.edits)) if part])
    kind = f"{method.kind}: {KINDS[method.kind]}. Guarantee: {method.guarantee}"
    return f"{what}. {kind}" if what else kind


def _named(key: str) -> str:
    return key.removesuffix("_s").replace("_", " ") + (", time" if key.endswith("_s") else "")


def _spent(key: str, value: float) -> str:
    return duration(value) if key.endswith("_s") else f"{value:g}"


def _percent(share: float | None) -> str:
    return "" if share is None else percent(share, digits=1)
