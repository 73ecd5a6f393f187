from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats


def slope(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float] | None:
    """Exponent ``b`` of ``values ~ sizes ** b`` by least squares in logarithms, and its 95 % interval by Student's t."""
    pairs = [(math.log(x), math.log(y)) for x, y in zip(sizes, values, strict=True) if y > 0]
    if len(pairs) < 3:
        return None
    fit = stats.linregress([x for x, _ in pairs], [y for _, y in pairs])
    half = float(stats.t.ppf(0.975, len(pairs) - 2)) * float(fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def last_slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Between the two largest sizes, where fixed costs count least."""
    if min(values[-2:]) <= 0:
        return None
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])
