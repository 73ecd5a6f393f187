from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tofu_parts._draws import Floats, interval, over_seeds

Draws = Mapping[str, Mapping[int, tuple[float, Floats]]]
"""Of one measure: by network and seed, its value and its draws."""


@dataclass(frozen=True)
class Difference:
    """How far a measure of one is above a share of another's, paired by seed and fact.

    Args:
        one: Name.
        other: Name.
        value: Mean over the seeds that both have.
        low: Where the 95 % interval begins.
        high: Where it ends.
        share: Of the other's.
    """

    one: str
    other: str
    value: float
    low: float
    high: float
    share: float = 1.0

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does."""
        return self.low > 0 or self.high < 0

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: _short(value) for name, value in asdict(self).items()}


def difference(draws: Draws, one: str, other: str, share: float = 1.0) -> Difference | None:
    """``None`` if they have no seed in common, or nothing to compare."""
    seeds = sorted(set(draws.get(one, {})) & set(draws.get(other, {})))
    pairs = {seed: (draws[one][seed], draws[other][seed]) for seed in seeds}
    seeds = [seed for seed, pair in pairs.items() if all(np.isfinite(value) for value, _ in pair)]
    if not seeds:
        return None
    value = float(np.mean([pairs[seed][0][0] - share * pairs[seed][1][0] for seed in seeds]))
    drawn = {seed: pairs[seed][0][1] - share * pairs[seed][1][1] for seed in seeds}
    return Difference(one, other, value, *interval(over_seeds(drawn, seeds)), share)


def all_differences(draws: Draws, names: Sequence[str]) -> list[Difference]:
    """Of all pairs."""
    found = (difference(draws, one, other) for one, other in combinations(names, 2))
    return [each for each in found if each is not None]


def _short(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value
