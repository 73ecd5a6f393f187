"""The tables of `benchmarks/README.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def tables(results: Mapping[str, Any]) -> str:
    return "\n\n".join(
        [
            _entities(results["entities"]),
            _rows(results["rows"]),
            _seeds(results["seeds"]),
            _choosing(results["choosing"]),
        ]
    )


def _entities(cells: list[dict[str, Any]]) -> str:
    counts = sorted({cell["entities"] for cell in cells})
    lines = [_line(["", *(f"{count} entities" for count in counts)]), _line(["---"] * (len(counts) + 1))]
    for name in dict.fromkeys(cell["design"] for cell in cells):
        row = [[cell for cell in cells if (cell["design"], cell["entities"]) == (name, count)] for count in counts]
        lines.append(_line([name, *map(_range, row)]))
    return "\n".join(lines)


def _range(cells: list[dict[str, Any]]) -> str:
    def of(method: str) -> str:
        held = [100 * cell[method]["held"] for cell in cells]
        return f"{min(held):.1f} to {max(held):.1f}"

    return f"{of('ours')} ({of('percentile')})"


def _rows(cells: Iterable[Mapping[str, Any]]) -> str:
    found: dict[str, list[str]] = {}
    for cell in cells:
        found.setdefault(cell["design"], []).append(_percent(cell["ours"]))
    head = [f"{entities} entities, {rows} rows each" for entities in (2, 3, 4) for rows in (5, 20)]
    lines = [_line(["", *head]), _line(["---"] * (len(head) + 1))]
    return "\n".join([*lines, *(_line([name, *shares]) for name, shares in found.items())])


def _seeds(cells: Iterable[Mapping[str, Any]]) -> str:
    methods = ("ours", "two-level percentile", "one seed alone")
    lines = [_line(["seeds", "entities", "seeds differ by", *methods]), _line(["---"] * 6)]
    for cell in cells:
        lines.append(_line([cell["seeds"], cell["entities"], cell["spread"], *(_percent(cell[m]) for m in methods)]))
    return "\n".join(lines)


def _choosing(cells: Iterable[Mapping[str, Any]]) -> str:
    lines = [_line(["attacks", "entities", "truth", "largest", "held", "held out", "held"]), _line(["---"] * 7)]
    for cell in cells:
        both = [item for way in ("largest", "held out") for item in (cell[way]["mean"], _percent(cell[way]))]
        lines.append(_line([cell["attacks"], cell["entities"], cell["truth"], *both]))
    return "\n".join(lines)


def _percent(share: Mapping[str, float]) -> str:
    return f"{100 * share['held']:.1f}"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
