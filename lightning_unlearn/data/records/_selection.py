"""Which rows are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from lightning_unlearn.data.records._record import Record
from lightning_unlearn.data.records._values import key, spelled
from lightning_unlearn.functional.text import visible

_SHOWN = 10
"""So many values are named in a message."""


def keep_where(records: Sequence[Record], where: Mapping[str, Any], name: str) -> list[Record]:
    """The records whose fields have one of the values in ``where``.

    Raises:
        ValueError: If no record has one of those values: whatever it stands for would be left out without a word.

    Example:
        >>> rows = [Record({"who": who}, 0, "") for who in ("Ann", "Ann Lee", None)]
        >>> [row["who"] for row in keep_where(rows, {"who": "Ann"}, "rows")]
        ['Ann']
    """
    kept = [True] * len(records)
    for field, value in where.items():
        wanted = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        keys = {key(one) for one in wanted}
        found = _found(records, field, allow_missing=None in keys)
        # Each value should be there in some row, also in one that another field leaves out.
        if unknown := [one for one in wanted if key(one) not in found]:
            raise ValueError(_unknown(field, unknown[0], found, name))
        kept = [before and one in keys for before, one in zip(kept, found, strict=True)]
    return [record for record, keep in zip(records, kept, strict=True) if keep]


def _found(records: Sequence[Record], field: str, *, allow_missing: bool) -> list[str | None]:
    """The value of each row. Where null is wanted, a row without the field counts as one with null."""
    fields = [record.fields for record in records if isinstance(record.fields, Mapping)]
    if allow_missing and len(fields) == len(records) and any(field in one for one in fields):
        return [key(one.get(field)) for one in fields]
    return [key(record[field]) for record in records]


def _unknown(field: str, one: Any, found: Sequence[str | None], name: str) -> str:
    values = list(dict.fromkeys("null" if value is None else visible(value) for value in found))
    # Capitals count in a comparison, and are what is mistaken most easily.
    by_small = {value.lower(): value for value in values}
    close = get_close_matches(spelled(one).lower(), by_small, n=1)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return (
        f"Each value in `where` should keep at least one of the {len(found)} rows of `{name}`. Found none with "
        f"`where = { ({field: one}) }`. `{field}` is one of {', '.join(map(repr, values[:_SHOWN]))}{more}."
        + (f" Did you mean {by_small[close[0]]!r}?" if close else "")
    )
