"""Numbers as other people's code computes them, where published tables depend on it."""

from typing import Literal, get_args

Compat = Literal["open-unlearning"]
"""Whose quirks to reproduce."""


def check_compat(compat: str | None) -> None:
    """Refuse what is neither ``None`` nor known.

    Example:
        >>> check_compat("open-unlearning")
    """
    if compat is not None and compat not in get_args(Compat):
        known = " or ".join(f"'{name}'" for name in get_args(Compat))
        raise ValueError(f"`compat` should be `None`, for the corrected form, or {known}. Found `compat = {compat!r}`.")
