"""Plots in words, for those who do not see them."""

from collections.abc import Callable, Mapping, Sequence

from lightning_unlearn.report.schema import Recovery
from lightning_unlearn.report.schema._words import number, point_words, recovery_words

MOST = 12
"""Lines and points that are read aloud; all numbers are in the tables."""


def curves_in_words(curves: Mapping[str, Sequence[tuple[float, float]]], show: Callable[[float], str] = number) -> str:
    """Each line: where it starts, where it ends, and its extremes between them if they lie elsewhere.

    Example:
        >>> curves_in_words({"retain": [(0, 0.5), (10, 0.25)]})
        'retain: 0.500 at 0, 0.250 at 10.'
    """
    return " ".join(f"{who}: {_line(curve, show)}." for who, curve in list(curves.items())[:MOST] if curve)


def recoveries_in_words(attacks: Mapping[str, Sequence[Recovery]]) -> str:
    """Each attack, with its recovery at each point."""
    lines = (
        f"{attack}: " + ", ".join(f"{recovery_words(r.shown)} at {point_words(r)}" for r in recoveries[:MOST])
        for attack, recoveries in attacks.items()
    )
    return ". ".join(lines) + "."


def _line(curve: Sequence[tuple[float, float]], show: Callable[[float], str]) -> str:
    ends = [curve[0], min(curve, key=lambda p: p[1]), max(curve, key=lambda p: p[1]), curve[-1]]
    return ", ".join(f"{show(y)} at {x:g}" for x, y in dict.fromkeys(sorted(ends)))
