from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from robustness_parts._criterion import KEEP, chosen_rate, kept
from robustness_parts._method import Method

Trial = Mapping[str, Any]


def best_two(
    trials: Mapping[str, Sequence[Trial]], parts: Mapping[str, str], keep: float | None = KEEP
) -> tuple[str, str]:
    """The two methods that did best on other authors, of different parts: the smallest leads at their chosen rates.

    Those that keep enough of what must stay come before those that do not.

    Args:
        trials: Of each method.
        parts: Which part of a fit each method changes.
        keep: As in choosing the rate; ``None`` weighs what is kept against the lead here, too.

    Raises:
        ValueError: If there are not two with different parts that worked.
    """
    ranks = {name: _rank(of, keep) for name, of in trials.items() if any("error" not in trial for trial in of)}
    pairs = [pair for pair in combinations(ranks, 2) if parts[pair[0]] != parts[pair[1]]]
    if not pairs:
        raise ValueError(f"Two methods with different parts should have worked. Found {sorted(ranks)}.")
    return min(pairs, key=lambda pair: sorted((ranks[pair[0]], ranks[pair[1]]), reverse=True))


def _rank(trials: Sequence[Trial], keep: float | None) -> tuple[bool, float]:
    rate = chosen_rate(trials, keep)
    chosen = next(trial for trial in trials if trial.get("rate") == rate)
    if keep is None:
        return False, float(chosen["lead"]) - kept(chosen)
    return kept(chosen) < keep, float(chosen["lead"])


def together(one: Method, other: Method) -> dict[str, Any]:
    """A description with what both have. They have the same objective."""
    unlearn = {**one.described.get("unlearn", {}), **other.described.get("unlearn", {})}
    callbacks = [*one.described.get("callbacks", []), *other.described.get("callbacks", [])]
    return {"unlearn": unlearn, "callbacks": callbacks}
