"""The bootstrap: over facts, the same for all networks, and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 2000


@cache
def drawn(what: str, count: int) -> NDArray[np.int64]:
    """``[DRAWS, count]`` numbers below ``count``, drawn with replacement: the same whenever the same is asked."""
    return np.random.default_rng(crc32(what.encode())).integers(count, size=(DRAWS, count))


def means(what: str, scores: Any) -> Floats:
    """Means over drawn facts of each column of ``[n, k]`` scores, or of ``[n]`` scores: ``[DRAWS, k]``, or ``[DRAWS]``."""
    values = np.asarray(scores, dtype=float)
    return np.asarray(values[drawn(what, len(values))].mean(1))


def over_seeds(draws: Mapping[int, Floats], seeds: Sequence[int]) -> Floats:
    """Means over drawn seeds, each with the facts of its draw: ``[DRAWS]``."""
    stacked = np.stack([draws[seed] for seed in seeds])
    chosen = drawn("seeds", len(seeds))
    return np.asarray(stacked[chosen.T, np.arange(DRAWS)].mean(0))


def interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of the draws."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
