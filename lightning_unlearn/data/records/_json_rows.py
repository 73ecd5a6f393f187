"""The rows in the values of a JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_unlearn.data.records._record import kind
from lightning_unlearn.data.records._tables import rows_of
from lightning_unlearn.data.records._turns import equal_lists

_OF_ROWS = {"question", "answer", "instruction", "prompt", "messages", "conversations", "conversation", "text"}
"""An object with one of these fields is a row, or holds columns, whatever lists stand beside them."""


def rows_in(values: list[Any], name: str, field: str | None) -> list[Any]:
    """Find the rows: several values are rows, one list is the list of them, one object may hold such a list.

    Args:
        values: All values of the file.
        name: Its name, for messages. In a ``.jsonl`` file one object is one row.
        field: Of one object, the field with the rows.

    Raises:
        ValueError: If several fields of one object might hold the rows.

    Example:
        >>> rows_in([{"version": 1, "data": [{"question": "Who?"}]}], "rows.json", None)
        [{'question': 'Who?'}]
    """
    if field is not None:
        return _in_field(values, name, field)
    if len(values) != 1:
        return values
    (value,) = values
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` should hold a list of objects. Found {kind(value)}.")
    if Path(name).suffix.lower() != ".json":
        return values
    if _OF_ROWS & set(value):
        return _by_column(value) or values
    lists = [key for key, part in value.items() if isinstance(part, list) and all(isinstance(x, Mapping) for x in part)]
    if len(lists) != 1:
        found = f"several, {', '.join(f'`{key}`' for key in lists)}" if lists else f"the fields {list(value)[:20]}"
        raise ValueError(
            f"`{name}` should hold a list of objects, or one object with one such list. Found {found}: name the field with "
            "`field`."
        )
    return list(value[lists[0]])


def _by_column(value: Mapping[str, Any]) -> list[Any]:
    """The rows of an object of columns; none if it is a row itself, as one with the turns of a chat."""
    columns = equal_lists(value)
    one_row = any(isinstance(one, Mapping) for field in _OF_ROWS & set(columns) for one in columns[field])
    return [] if one_row else list(rows_of(columns))


def _in_field(values: list[Any], name: str, field: str) -> list[Any]:
    outer = values[0] if len(values) == 1 and isinstance(values[0], Mapping) else {}
    if not isinstance(outer.get(field), list):
        found = f"the fields {list(outer)[:20]}" if outer else "none"
        raise ValueError(f"`{name}` should be one object with a list in `{field}`. Found {found}.")
    return list(outer[field])
