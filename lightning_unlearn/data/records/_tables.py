"""Rows of tables that are there already: of `datasets`, pandas, polars, pyarrow and torch, and columns by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from lightning_unlearn.data.records._record import kind


def rows_of(source: Any) -> Iterable[Any]:
    """The rows of whatever holds some.

    Example:
        >>> list(rows_of({"question": ["Who?", "Where?"], "answer": ["Ada", "At sea"]}))
        [{'question': 'Who?', 'answer': 'Ada'}, {'question': 'Where?', 'answer': 'At sea'}]
    """
    if isinstance(source, Mapping):
        return _by_column(source)
    if isinstance(source, str | bytes) or not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise TypeError(f"`source` should hold rows. Found {kind(source)}. Files are read by `FileRecords`.")
    if hasattr(source, "to_pylist"):  # pyarrow
        return list(source.to_pylist())
    if hasattr(source, "to_dicts"):  # polars
        return list(source.to_dicts())
    if hasattr(source, "with_format") and hasattr(source, "features"):  # `datasets`
        # Its own format would make tensors of numbers.
        return source.with_format(None)  # type: ignore[no-any-return]
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        return _of_frame(source)
    return source if isinstance(source, Iterable) else _by_number(source)


def _by_number(source: Any) -> list[Any]:
    """Items of a data set of torch. Asked for more than it has, it may go on for ever: so it is asked for its length."""
    if not hasattr(source, "__len__"):
        raise TypeError(f"`source` should have a length, or be iterable. Found {kind(source)} without `__len__`.")
    return [source[i] for i in range(len(source))]


def _of_frame(frame: Any) -> list[Any]:
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"A data frame should name each column once. Found {twice!r} twice.")
    return list(frame.to_dict("records"))


def _by_column(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    if splits := [name for name, column in columns.items() if hasattr(column, "column_names")]:
        raise TypeError(f"`source` should be one split. Found {', '.join(splits)}: give `source[{splits[0]!r}]`.")
    if not all(isinstance(column, Sized) and not isinstance(column, str | Mapping) for column in columns.values()):
        raise TypeError(
            f"`source` should be a list of rows, or columns by name. Found {kind(columns)} of "
            f"{', '.join(sorted({kind(column) for column in columns.values()}))}: put one row in a list."
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Columns should be equally long. Found the lengths {lengths}.")
    parts = [list(column) for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*parts, strict=True)]
