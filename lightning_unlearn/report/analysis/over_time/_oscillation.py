"""Does a fit swing? What is left of the error in its last half, and how it moves from look to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Oscillation:
    """The last half of a curve.

    Args:
        residual: Mean distance from the target.
        swing: Mean absolute change from one look to the next.
        turns: Share of inner looks at which the curve changes direction: 1 for a zigzag, 0 for a slope.
        n: Number of looks.
    """

    residual: float
    swing: float
    turns: float
    n: int


def oscillation(times: Sequence[float], values: Sequence[float], target: float = 1.0) -> Oscillation | None:
    r"""How a fit moves in the last half of its steps.

    .. math:: \mathrm{osc} = \operatorname{mean}_t \, |1 - p_t(y)|

    with a target of 1 for probabilities and of 0 for losses. A fit that goes on to swing feeds weak traces of what it should
    not learn, and a large learning rate of an attack finds traces that a small one does not: so a robustness number without
    the rate it was found at says little.

    Args:
        times: Steps, ascending.
        values: Probabilities of the right answers, or losses: observations by step, or a training curve.
        target: The value of a perfect fit.

    Returns:
        ``None`` with fewer than three looks in the last half.

    Example:
        >>> oscillation([0, 10, 20, 30, 40], [0.0, 0.5, 1.0, 0.5, 1.0])
        Oscillation(residual=0.16666666666666666, swing=0.5, turns=1.0, n=3)

    References:
        `Benign Oscillation of SGD <https://arxiv.org/abs/2310.17074>`_, ICLR 2024. From its abstract and reviews.
    """
    middle = (times[0] + times[-1]) / 2 if times else 0.0
    late = [value for time, value in zip(times, values, strict=True) if time >= middle]
    if len(late) < 3:
        return None
    changes = [after - before for before, after in pairwise(late)]
    turned = [one * other < 0 for one, other in pairwise(changes)]
    residual = sum(abs(target - value) for value in late) / len(late)
    return Oscillation(residual, sum(map(abs, changes)) / len(changes), sum(turned) / len(turned), len(late))
