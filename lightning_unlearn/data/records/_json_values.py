"""The values of a JSON file, in any layout."""

from __future__ import annotations

import json
from typing import Any


def json_values(text: str, name: str) -> list[Any]:
    r"""All JSON values of a file: one, however it is laid out, or several one after the other, as one per line.

    Example:
        >>> json_values('{"a": 1}\n{"a": NaN}', "rows.jsonl")
        [{'a': 1}, {'a': nan}]
    """
    decoder, values, position = json.JSONDecoder(object_pairs_hook=_fields_once), [], 0
    # Not `splitlines`: it also cuts at U+2028 and similar line separators, which JSON strings may hold.
    while (position := _next(text, position)) < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ValueError(_broken(text, position, error, name)) from error
        except _Twice as error:
            line = text.count("\n", 0, position) + 1
            raise ValueError(
                f"`{name}` should name each field once. In line {line} or below `{error}` comes twice."
            ) from None
        values.append(value)
    return values


class _Twice(Exception):
    """A field that comes twice in one object: JSON would keep the last of them without a word."""


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return fields


def _next(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _broken(text: str, start: int, error: json.JSONDecodeError, name: str) -> str:
    # In a list the broken place is told; of one object per line, the line: the place may be in the next.
    if text[start] == "[":
        return f"`{name}` should be JSON. Line {error.lineno} is broken: {error.msg}."
    line = text.count("\n", 0, start) + 1
    return f"`{name}` should hold one JSON object per line. Line {line} is broken: {error.msg}."
