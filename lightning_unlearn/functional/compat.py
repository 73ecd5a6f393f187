"""Reproducing the results of other code, where published tables depend on its quirks."""

from typing import Literal, get_args

Compat = Literal["open-unlearning"]
"""The code whose quirks are reproduced."""


def check_compat(compat: str | None) -> None:
    """Refuse a ``compat`` that is neither ``None`` nor a known name.

    Example:
        >>> check_compat("open-unlearning")
    """
    if compat is not None and compat not in get_args(Compat):
        known = " or ".join(f"'{name}'" for name in get_args(Compat))
        raise ValueError(f"`compat` should be `None`, for the corrected form, or {known}. Found `compat = {compat!r}`.")
