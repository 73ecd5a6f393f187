"""Tables of text: CSV and TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 2**31 - 1
"""Of a field in a table, in characters. The default of ``csv`` is 131072, less than a chapter."""


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
