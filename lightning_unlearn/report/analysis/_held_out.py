"""The worst case, chosen on one half of the entities and judged on the other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.report.analysis._statistics import Floats
from lightning_unlearn.report.analysis._totals import Totals

MIN_HALF = 5
"""Fewest entities in each half; with fewer, the choice would be noise."""

Shares = Mapping[str, tuple[float, float]]
"""What each entity adds to the numerator and to the denominator of a recovery."""


@dataclass(frozen=True)
class HeldOut:
    """A worst case whose number was not chosen by the entities that it is about.

    Args:
        choices: Which candidate was chosen on the one half, and which on the other.
        totals: Each entity, judged by the candidate that the other half chose.
    """

    choices: tuple[int, int]
    totals: Totals


def halves(entities: Sequence[str], seed: int) -> tuple[set[str], set[str]]:
    """Two halves, drawn at random, a function of the names and the seed alone.

    Example:
        >>> one, other = halves(["d", "b", "a", "c", "a"], seed=0)
        >>> len(one), len(other), sorted(one | other)
        (2, 2, ['a', 'b', 'c', 'd'])
    """
    names = sorted(set(entities))
    order = np.random.default_rng(seed).permutation(len(names))
    cut = len(names) // 2
    return {names[place] for place in order[:cut]}, {names[place] for place in order[cut:]}


def held_out_worst(candidates: Sequence[Shares], *, seed: int = 0) -> HeldOut | None:
    """The largest of several recoveries, without the luck of having been chosen.

    The largest of noisy numbers is too large. Here one half of the entities says which candidate is worst, and the other
    half says how bad it is, both ways round (cross-fitting): no entity judges what it has chosen, and all are judged. If
    both halves choose the same candidate, this is that candidate's recovery.

    Args:
        candidates: The recoveries to choose from, entity by entity.
        seed: Of the halves.

    Returns:
        None if no candidate is about five entities of each half.

    Example:
        >>> weak = {f"author {n}": (0.25, 1.0) for n in range(10)}
        >>> strong = {f"author {n}": (0.5, 1.0) for n in range(10)}
        >>> held_out_worst([weak, strong]).choices
        (1, 1)
    """
    enough, parts = can_be_halved(candidates, seed), _halves_of(candidates, seed)
    if not enough:
        return None
    one, other = (_worst_on(half, candidates, enough) for half in parts)
    over, under = np.concatenate([_of(parts[0], candidates[other]), _of(parts[1], candidates[one])]).T
    return HeldOut((one, other), Totals(over, under, divides=True))


def can_be_halved(candidates: Sequence[Shares], seed: int) -> list[int]:
    """Which candidates are about five entities or more of each half.

    Example:
        >>> can_be_halved([{f"author {n}": (0.25, 1.0) for n in range(number)} for number in (10, 9)], seed=0)
        [0]
    """
    parts = _halves_of(candidates, seed)
    return [
        place for place, shares in enumerate(candidates) if all(len(half & shares.keys()) >= MIN_HALF for half in parts)
    ]


def _halves_of(candidates: Sequence[Shares], seed: int) -> tuple[set[str], set[str]]:
    return halves([name for shares in candidates for name in shares], seed)


def _of(half: set[str], shares: Shares) -> Floats:
    return np.array([shares[name] for name in sorted(half) if name in shares])


def _worst_on(half: set[str], candidates: Sequence[Shares], places: Sequence[int]) -> int:
    return max(places, key=lambda place: _recovery(half, candidates[place]))


def _recovery(half: set[str], shares: Shares) -> float:
    over, under = _of(half, shares).sum(0)
    return float(over / under) if under else -math.inf
