"""Strict JSON, one row a line."""

import json
import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = ("nan", "inf", "-inf")
"""How NaN and infinities are written: strict JSON has no such numbers."""


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
            "If the file was cut short while copying, copy it again; else write it anew with `save(report, folder)`."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"A report should be a JSON object. Found a {type(data).__name__} in {source}.")
    return data


def _block(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(_line(item) for item in value) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, default=str)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(item) for item in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
