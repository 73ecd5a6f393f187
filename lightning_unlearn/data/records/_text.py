"""Bytes as text, and text as rows: JSON in any spelling, tables of text, whole documents."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LONGEST = 2**31 - 1
"""Of a field in a table, in characters. The default of ``csv`` is 131072, less than a chapter."""


def decoded(data: bytes, name: str) -> str:
    """Bytes of a file as text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`path` should be a readable UTF-8 text file. Found `path = {name!r}`: {error}. Save it as UTF-8."
        ) from error


def document(text: str, name: str) -> list[dict[str, str]]:
    """A document is one row: its ``text``, and the name of its ``file``. Line ends are those of Python."""
    return [{"text": text.replace("\r\n", "\n").replace("\r", "\n"), "file": name}]


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


def table(text: str, name: str, delimiter: str) -> list[dict[str, str]]:
    r"""Rows of a CSV or TSV file. All values are the strings that stand there: ``007``, ``NA``, ``1e5``, nothing.

    Example:
        >>> table('question,answer\n"Who, then?",007\n', "rows.csv", ",")
        [{'question': 'Who, then?', 'answer': '007'}]
    """
    # Strict: a quote in a wrong place would swallow the lines that follow.
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    with _long_fields():
        try:
            header = next(lines, [])
            rows = [_row(header, values, lines.line_num, name) for values in lines if values]
        except csv.Error as error:
            raise ValueError(
                f"`{name}` should be a table with values in double quotes where they hold quotes, line ends or "
                f"{delimiter!r}. Line {lines.line_num} is broken: {error}."
            ) from error
    if twice := sorted({field for field in header if header.count(field) > 1}):
        raise ValueError(f"`{name}` should name each column once. Found {twice[0]!r} {header.count(twice[0])} times.")
    return rows


def _row(header: list[str], values: list[str], line: int, name: str) -> dict[str, str]:
    if len(values) != len(header):
        raise ValueError(
            f"Each row of `{name}` should have {len(header)} values, as many as its first line. Found {len(values)} in "
            f"the one that ends in line {line}. Put values that hold commas or tabs in double quotes."
        )
    return dict(zip(header, values, strict=True))


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)
