"""Values of fields, as whatever read them gives them: which are none, and which are the same."""

from __future__ import annotations

from collections.abc import Sized
from decimal import Decimal
from numbers import Real
from typing import Any


def is_null(value: Any) -> bool:
    """Whether a value stands for none: ``None``, NaN, and what pandas writes for missing ones.

    Example:
        >>> [is_null(value) for value in (None, float("nan"), "", 0, "None")]
        [True, True, False, False, False]
    """
    # `pandas.NA` compares to neither true nor false, so it is known by its class.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return _is_number(value) and bool(value != value)


def is_blank(value: Any) -> bool:
    """Whether a value is null, white space or empty."""
    return is_null(value) or (
        not value.strip() if isinstance(value, str) else isinstance(value, Sized) and not len(value)
    )


def spelled(value: Any) -> str:
    """A value as text. Whole numbers are spelled alike, whatever their type: pandas turns integers beside NaN into floats.

    Example:
        >>> [spelled(value) for value in (1, 1.0, "1", "1.0", "007", True, 0.5)]
        ['1', '1', '1', '1.0', '007', 'True', '0.5']
    """
    return str(int(value)) if _is_number(value) and value % 1 == 0 else str(value)


def key(value: Any) -> str | None:
    """By what values are compared: their spelling. All nulls are alike, and true is like ``"true"`` and ``"True"``.

    Example:
        >>> key(1991) == key("1991"), key(float("nan")) == key(None), key("None") == key(None), key(True) == key("true")
        (True, True, False, True)
    """
    if is_null(value):
        return None
    text = spelled(value)
    return text.lower() if text in ("True", "False") else text


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | Decimal) and not isinstance(value, bool)
