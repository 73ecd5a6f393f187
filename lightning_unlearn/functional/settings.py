"""Settings of the wrong kind or size, refused where they are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from inspect import isclass
from numbers import Integral, Real
from typing import Any


def check_positive(name: str, value: Any, why: str = "") -> None:
    """Refuse what is not a positive, finite number; ``why`` follows in the error.

    Example:
        >>> check_positive("beta", float("nan"))
        Traceback (most recent call last):
        ValueError: `beta` should be positive and finite. Found `beta = nan`.
    """
    _refuse_unless(0 < _real(value) < math.inf, name, value, "positive and finite", why)


def check_not_negative(name: str, value: Any, why: str = "") -> None:
    """Refuse what is not a finite number of at least 0."""
    _refuse_unless(0 <= _real(value) < math.inf, name, value, "finite and not negative", why)


def check_finite(name: str, value: Any, why: str = "") -> None:
    """Refuse what is not a finite number."""
    _refuse_unless(math.isfinite(_real(value)), name, value, "finite", why)


def check_between(name: str, value: Any, low: float, high: float, why: str = "") -> None:
    """Refuse what is not a number from ``low`` to ``high``, the ends included."""
    _refuse_unless(low <= _real(value) <= high, name, value, f"between {low} and {high}", why)


def check_whole(name: str, value: Any, least: int = 1, why: str = "") -> None:
    """Refuse what is not a whole number of at least ``least``.

    Example:
        >>> check_whole("steps", 2.5)
        Traceback (most recent call last):
        ValueError: `steps` should be a whole number. Found `steps = 2.5`.
    """
    _refuse_unless(isinstance(value, Integral) and not isinstance(value, bool), name, value, "a whole number", why)
    _refuse_unless(value >= least, name, value, f"at least {least}", why)


def check_kind(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse what is no object of class ``kind``; ``example`` makes one.

    Example:
        >>> check_kind("number", complex, complex, example="complex(0, 1)")
        Traceback (most recent call last):
        TypeError: `number` should be a `complex`, such as `complex(0, 1)`. Found the class `complex` itself: call it.
    """
    if isinstance(value, kind):
        return
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    found = f"the class `{value.__name__}` itself: call it" if isclass(value) else f"`{value!r}`"
    raise TypeError(f"`{name}` should be {article} `{kind.__name__}`, such as `{example}`. Found {found}.")


def check_named(name: str, value: Any, kind: type, example: str) -> None:
    """Refuse what is no mapping from names, as they stand in logs, to objects of class ``kind``.

    Example:
        >>> check_named("metrics", {"a/b": 1.0}, float, example="{'loss': 1.0}")
        Traceback (most recent call last):
        ValueError: `metrics` should have names that are text without a `/`, which separates parts of log keys. Found 'a/b'.
    """
    if not isinstance(value, Mapping):
        found = f"`{value!r}`"
        raise TypeError(f"`{name}` should be a mapping from names, such as `{example}`. Found {found}.")
    for key, item in value.items():
        if not isinstance(key, str) or not key.strip() or "/" in key:
            quotes = f' Put it in quotes: "{key}".' if isinstance(key, int | float) else ""
            raise ValueError(
                f"`{name}` should have names that are text without a `/`, which separates parts of log keys. Found "
                f"{key!r}.{quotes}"
            )
        check_kind(f"{name}[{key!r}]", item, kind, example)


def _real(value: Any) -> float:
    """The number; NaN for what is none: it is in no interval."""
    # `True` is a number in Python, and none in a configuration.
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return float(value)


def _refuse_unless(holds: bool, name: str, value: Any, claim: str, why: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` should be {claim}{why}. Found `{name} = {value!r}`.")
