"""How facts are acquired and lost: effectivity, retainability, and the constant of decay in log time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 50.0
"""Steps after an encounter in which its effect shows: the memory of Adam, 0.9^50 = 0.005."""


@dataclass(frozen=True)
class Effectivity:
    """What an encounter with a fact, or an attack, gained at best.

    Args:
        gain: In units of the values; with log-likelihoods, in nats.
        at: When it was best.
    """

    gain: float
    at: float


def effectivity(
    times: Sequence[float], values: Sequence[float], start: float = 0.0, window: float = WINDOW
) -> Effectivity | None:
    r"""The local best within a window after an encounter, minus the value at it.

    .. math:: E = \max_{t_i < t \le t_i + w} \ell(t) - \ell(t_i)

    Args:
        times: Ascending.
        values: Log-likelihood of the right answer, :math:`\ell`; or another level of knowledge.
        start: Time of the encounter, :math:`t_i`; one of ``times``.
        window: :math:`w`; 1 for an optimizer without momentum.

    Returns:
        ``None`` without a value at ``start``, or in the window. The gain of forgetting is negative.

    Example:
        >>> effectivity([0, 10, 20, 100], [-3.0, -1.0, -1.5, -0.5])
        Effectivity(gain=2.0, at=10)

    References:
        `How do LLMs acquire factual knowledge <https://arxiv.org/abs/2406.11813>`_, "effectivity".
    """
    by_time = dict(zip(times, values, strict=True))
    later = [time for time in times if start < time <= start + window]
    if start not in by_time or not later:
        return None
    best = max(later, key=lambda time: by_time[time])
    return Effectivity(by_time[best] - by_time[start], best)


def retainability(
    times: Sequence[float], values: Sequence[float], before: float, peak: float
) -> list[tuple[float, float]]:
    r"""The share of a gain that is left, by the time since it was largest.

    .. math:: R(t) = \frac{\ell(t_\mathrm{peak} + t) - \ell_\mathrm{before}}{\ell(t_\mathrm{peak}) - \ell_\mathrm{before}}

    For what a fit should keep, the peak is the original, at time 0, and ``before`` is the level of a model that never knew.

    Args:
        times: Ascending.
        values: Levels of knowledge.
        before: The level before the fact was learned.
        peak: When the level was largest; one of ``times``.

    Returns:
        Pairs of time and share, from ``(0, 1)`` on; none at all if nothing had been gained.

    Example:
        >>> retainability([0, 10, 100], [-1.0, -1.5, -2.0], before=-3.0, peak=0)
        [(0, 1.0), (10, 0.75), (100, 0.5)]

    References:
        As :func:`effectivity`, "retainability".
    """
    by_time = dict(zip(times, values, strict=True))
    gained = by_time[peak] - before
    if not gained > 0:
        return []
    return [(time - peak, (by_time[time] - before) / gained) for time in times if time >= peak]


@dataclass(frozen=True)
class Decay:
    r"""A line in log time, :math:`R = b - a \ln t`.

    Args:
        constant: Decay constant, :math:`a`: the share that is lost whenever time is multiplied by e. It has no unit, and
            does not depend on the unit of time.
        gone_at: When the line reaches zero, :math:`e^{b / a}`; infinite where nothing decays.
        r_squared: Share of the variance that the line explains.
        n: Number of points.
    """

    constant: float
    gone_at: float
    r_squared: float
    n: int


def log_time_decay(points: Sequence[tuple[float, float]]) -> Decay | None:
    """Fit a line to shares over the logarithm of time, by least squares, in float64.

    Args:
        points: Pairs of time and share, as from :func:`retainability`. Times before 1 have no place on the axis.

    Returns:
        ``None`` with fewer than three points at different times.

    Example:
        >>> found = log_time_decay([(t, 1 - 0.2 * math.log(t)) for t in (1, 2, 5, 20, 100)])
        >>> round(found.constant, 6), round(found.gone_at, 1)
        (0.2, 148.4)

    References:
        As :func:`effectivity`, "decay constant".
    """
    usable = [(math.log(time), share) for time, share in points if time >= 1]
    if len({x for x, _ in usable}) < 3:
        return None
    x, y = np.array(usable, dtype=np.float64).T
    apart = x - x.mean()
    slope = float(apart @ (y - y.mean()) / (apart @ apart))
    start = float(y.mean() - slope * x.mean())
    around = float(((y - y.mean()) ** 2).sum())
    left = float(((y - start - slope * x) ** 2).sum())
    gone_at = math.exp(min(start / -slope, 700.0)) if slope < 0 else math.inf  # `exp` overflows a little above
    return Decay(-slope, gone_at, 1 - left / around if around > 0 else 1.0, len(usable))


def without_outliers(values: Sequence[float], factor: float = 1.5) -> list[float]:
    """Drop what is further from the quartiles than ``factor`` times the distance between them.

    Args:
        values: One of each fact, such as its effectivity.
        factor: 1.5 in the paper, 2 in its code.

    Example:
        >>> without_outliers([1.0, 2.0, 3.0, 100.0])
        [1.0, 2.0, 3.0]
    """
    if not values:
        return []
    low, high = np.quantile(np.array(values, dtype=np.float64), [0.25, 0.75])
    reach = factor * (high - low)
    return [value for value in values if low - reach <= value <= high + reach]
