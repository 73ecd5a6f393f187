from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from families_parts._batches import ORDERS
from families_parts._exactness import EXACT

Row = Mapping[str, Any]
BATCHES = sum(map(len, ORDERS.values()))
SHARES = ("quantize", "prune", "adapter", "full", "lora", "subspace")
HEADER = ["family", "plain", "packed", "packs", "answers", *SHARES]


def shown(found: Mapping[str, Any]) -> str:
    """A summary, the families that cannot be measured, and a table of the others, worst first."""
    rows = found["families"]
    measured = [row for row in rows if "exact" in row and not row["refused"]]
    lines = [_cells(row) for row in sorted(measured, key=_goodness)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [HEADER, ["---"] * len(HEADER), *lines])
    return "\n\n".join([summary(found["versions"], rows, measured), left_out(rows), table])


def summary(versions: Mapping[str, str], rows: list[Row], measured: list[Row]) -> str:
    """How many families are right in each respect."""
    number = len(measured)
    both = sum(max(apart(row, "plain"), apart(row, "packed")) <= EXACT for row in measured)
    plain = sum(apart(row, "plain") <= EXACT for row in measured)
    packs = sum(bool(packed_batches(row)) for row in measured)
    answers = sum(_answers(row) == "equal" for row in measured)
    encoders = [said for row in rows if isinstance(said := row.get("as an encoder"), str)]
    taken = sum(said == "taken" for said in encoders)
    shares = (f"`{name}` in {_reaching(name, measured)}" for name in SHARES)
    return " ".join(
        [
            f"transformers {versions['transformers']}: {len(rows)} families, {number} measured.",
            f"Exact for both readouts, in all orders: {both}; for the plain one: {plain}; packed at least once: {packs}.",
            f"Answers equal to the loop's, with padding and without: {answers}.",
            f"Refused when built to look ahead: {len(encoders) - taken} of {len(encoders)}.",
            f"At least 0.9 of the weights are reached by {', '.join(shares)}.",
        ]
    )


def _reaching(name: str, measured: list[Row]) -> int:
    return sum(row["shares"].get(name, {}).get("true", 0.0) >= 0.9 for row in measured)


def left_out(rows: Iterable[Row]) -> str:
    """Families without numbers, and why."""
    why = []
    for row in rows:
        if "not built" in row:
            why.append(f"- `{row['family']}`: not built: {row['not built']}")
        elif row["refused"]:
            why.append(f"- `{row['family']}`: refused: {row['refused']}")
        elif row["looks ahead"]:
            why.append(f"- `{row['family']}`: **looks ahead, and is not refused**")
    return "\n".join(why)


def apart(row: Row, readout: str) -> float:
    """The largest relative difference, of a loss or a gradient, in any order; infinite after an error."""
    found = [order.get(readout, order) for order in row["exact"].values()]
    return max(float("inf") if "error" in one else max(one["loss"], one["gradient"]) for one in found)


def packed_batches(row: Row) -> int:
    """How many batches, of all orders, were run as one sequence."""
    return sum(sum(order.get("packed", {}).get("packed", ())) for order in row["exact"].values())


def _answers(row: Row) -> str:
    found = row["generation"]
    if "error" in found:
        return "error"
    return "equal" if all(found.values()) else "differ"


def _goodness(row: Row) -> tuple[float, ...]:
    """Smaller is worse: errors first, then differences, then small shares."""
    worst = max(apart(row, "plain"), apart(row, "packed"))
    shares = (
        [row["shares"].get(name, {}).get("true", 0.0) for name in SHARES] if "error" not in row["shares"] else [0.0]
    )
    return (-worst if worst > EXACT else 0.0, float(_answers(row) == "equal"), sum(shares))


def _cells(row: Row) -> list[str]:
    return [
        row["family"] + ("" if row["own loss is shifted"] is True else " *"),
        *(_number(apart(row, readout)) for readout in ("plain", "packed")),
        f"{packed_batches(row)}/{BATCHES}",
        _answers(row),
        *(_share(row["shares"].get(name, {})) for name in SHARES),
    ]


def _number(value: float) -> str:
    text = "error" if value == float("inf") else f"{value:.0e}".replace("e-0", "e-")
    return text if value <= EXACT else f"**{text}**"


def _share(found: Mapping[str, Any]) -> str:
    if "true" not in found:
        return "**error**"
    text = f"{found['true']:.2f}"
    if found["said"] is not None and abs(found["said"] - found["true"]) > 0.01:
        text += f" (says {found['said']:.2f})"
    return text if found["true"] >= 0.5 else f"**{text}**"
