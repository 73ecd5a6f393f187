"""How much effort brings knowledge back: steps until a share is recovered, and the area under the curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats


@dataclass(frozen=True)
class Steps:
    """Steps until a share was recovered.

    Args:
        number: How many; if it was not reached, how many were tried.
        reached: Whether it was reached. If not, the true number is beyond ``number``, never equal to it.

    Example:
        >>> Steps(20, reached=False).words
        '> 20'
    """

    number: float
    reached: bool

    @property
    def words(self) -> str:
        """The number; behind a ``>`` if it was not reached."""
        return f"{self.number:.3g}" if self.reached else f"> {self.number:g}"


def steps_to_recover(points: Sequence[float], shares: Sequence[float], wanted: float) -> Steps:
    r"""The first number of steps at which ``wanted`` is recovered, :math:`\tau_q = \min \{t : \rho(t) \ge q\}`.

    Between two points the curve is linear in :math:`\log(1 + t)`, as the steps are spaced.

    Args:
        points: Numbers of steps, ascending; at 0 steps nothing is recovered.
        shares: Recovery at each.
        wanted: The share to recover.

    Example:
        >>> steps_to_recover([0, 1, 3], [0.0, 0.25, 0.75], 0.5).words  # 2**1.5 - 1
        '1.83'
        >>> steps_to_recover([0, 10], [0.0, 0.25], 0.5)
        Steps(number=10, reached=False)
    """
    times, values = _from_zero(points, shares)
    first = next((place for place, value in enumerate(values) if value >= wanted), None)
    if first is None:
        return Steps(times[-1], reached=False)
    if first == 0:
        return Steps(times[0], reached=True)
    before, after = values[first - 1 : first + 1]
    start, end = (math.log1p(time) for time in times[first - 1 : first + 1])
    return Steps(math.expm1(start + (end - start) * (wanted - before) / (after - before)), reached=True)


def area_under_recovery(points: Sequence[float], shares: Sequence[float], *, log: bool = False) -> float:
    r"""The mean recovery up to the last step, :math:`\frac{1}{T} \int_0^T \rho(t)\,dt`, of recoveries cut to 0 and 1.

    0: nothing came back. 1: everything did, at once. It tells late from early where the largest recovery is the same.

    Args:
        points: Numbers of steps, ascending; at 0 steps nothing is recovered.
        shares: Recovery at each.
        log: Whether the mean is over :math:`\log_{10}(1 + t)`, in which early steps count for more.

    Example:
        >>> area_under_recovery([0, 2, 4], [0.0, 1.0, 1.0])
        0.75
    """
    times, values = _from_zero(points, shares)
    axis = np.log10(1 + np.array(times)) if log else np.array(times, dtype=float)
    return float(integrate.trapezoid(np.clip(values, 0, 1), axis) / axis[-1]) if axis[-1] > 0 else 0.0


def median_steps(found: Sequence[Steps]) -> Steps | None:
    """The Kaplan-Meier median over runs, of which some never recovered so much.

    Runs that did not reach it count as still to come, up to the steps they tried. If the survival curve never falls to one
    half, the median is beyond the last step at which a run was still watched.

    Example:
        >>> median_steps([Steps(2, True), Steps(5, True), Steps(20, False)])
        Steps(number=5.0, reached=True)
        >>> median_steps([Steps(2, True), Steps(20, False), Steps(20, False)])
        Steps(number=20, reached=False)

    References:
        Kaplan and Meier, *Nonparametric Estimation from Incomplete Observations*, JASA, 1958.
    """
    if not found:
        return None
    reached = [steps.number for steps in found if steps.reached]
    if reached:
        data = stats.CensoredData(reached, right=[steps.number for steps in found if not steps.reached])
        alive = stats.ecdf(data).sf
        fallen = alive.quantiles[alive.probabilities <= 0.5 + 1e-12]
        if len(fallen):
            return Steps(float(fallen[0]), reached=True)
    return Steps(max(steps.number for steps in found), reached=False)


def _from_zero(points: Sequence[float], shares: Sequence[float]) -> tuple[list[float], list[float]]:
    start = [] if points and points[0] <= 0 else [0.0]
    return [*start, *points], [*start, *shares]
