"""Reports as strict JSON and back."""

import json
import math
from collections.abc import Mapping
from typing import Any

from lightning_unlearn.observation import Observation
from lightning_unlearn.report._schema import Gate, Interval, Level, Recovery

NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers that strict JSON cannot say are written."""


def to_strict_json(data: Mapping[str, Any]) -> str:
    """Write JSON that every parser reads, one row of a list per line, so that versions can be compared line by line.

    Example:
        >>> print(to_strict_json({"rows": [{"value": float("nan")}, {"value": 1.0}]}))
        {
        "rows": [
        {"value": "nan"},
        {"value": 1.0}
        ]
        }
    """
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_block(value)}" for key, value in data.items()) + "\n}"


def parse_json(text: str, *, source: str) -> dict[str, Any]:
    """Parse a report's JSON.

    Args:
        text: The JSON.
        source: Where it comes from, for the error.

    Raises:
        ValueError: If it is not one whole JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"A report should be complete JSON. Found `{error}` in {source}. "
            "If the file was cut short while copying, copy it again; else write it anew with `report.save(folder)`."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"A report should be a JSON object. Found a {type(data).__name__} in {source}.")
    return data


def to_observation(row: Mapping[str, Any]) -> Observation:
    """Build an observation from its JSON."""
    bounds = None if row["bounds"] is None else tuple(row["bounds"])
    scores = [float(score) for score in row["scores"]]
    return Observation(**{**row, "value": float(row["value"]), "scores": scores, "bounds": bounds})


def to_gate(row: Mapping[str, Any]) -> Gate:
    """Build a gate from its JSON."""
    return Gate(**row)


def to_level(row: Mapping[str, Any]) -> Level:
    """Build a level from its JSON."""
    return Level(**{**row, "interval": _interval(row["interval"])})


def to_recovery(row: Mapping[str, Any]) -> Recovery:
    """Build a recovery from its JSON."""
    intervals = {name: _interval(row[name]) for name in ("forget", "retain", "rho", "adjusted") if row[name]}
    return Recovery(**{**row, **intervals, "kappa": _number(row["kappa"])})


def to_training_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Build a row of the training curve from its JSON."""
    return {key: _number(value) if value in NOT_FINITE else value for key, value in row.items()}


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(**{**row, "value": float(row["value"]), "low": _number(row["low"]), "high": _number(row["high"])})


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _block(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(_line(item) for item in value) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(_sayable(value), allow_nan=False, ensure_ascii=False, default=str)


def _sayable(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _sayable(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_sayable(item) for item in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
