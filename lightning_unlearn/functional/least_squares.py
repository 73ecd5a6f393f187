"""Least squares with variables that may not be negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_OPTIMAL = 1e-12  # a slope below this is rounding, since columns and target have length 1 at most
_DEPENDENT = (
    1e-6  # singular values below this share of the largest are cut: nearly equal columns would get huge weights
)


def non_negative_least_squares(matrix: Array, target: Array) -> tuple[Array, bool]:
    r"""Solve :math:`\min_{x \ge 0} \lVert A x - y \rVert_2` by active sets, exactly.

    Args:
        matrix: :math:`A`, ``[r, k]``, with columns of length 1 or 0, which may be dependent.
        target: :math:`y`, ``[r]``, of length 1 at most.

    Returns:
        :math:`x`, ``[k]``, and whether the search ended; where it did not, :math:`x` is feasible but not optimal.

    Example:
        >>> non_negative_least_squares(np.eye(2), np.array([0.5, -0.5]))
        (array([0.5, 0. ]), True)

    References:
        Lawson and Hanson, *Solving Least Squares Problems*, 1974, chapter 23.
    """
    x = np.zeros(matrix.shape[1])
    free = np.zeros(len(x), dtype=bool)  # variables that may be positive; the others are fixed at 0
    rejected = np.zeros(len(x), dtype=bool)  # fixed ones whose slope turned out to be rounding
    for _ in range(10 * len(x) + 1):  # active sets end by themselves; the limit is against cycling by rounding
        slope = np.where(free | rejected, 0.0, matrix.T @ (target - matrix @ x))
        if not (slope > _OPTIMAL).any():
            return x, True
        entering = int(slope.argmax())
        free[entering] = True
        best = _least_squares(matrix, target, free)
        if best[entering] <= 0:  # its slope was rounding error: freeing it would cycle forever
            free[entering], rejected[entering] = False, True
            continue
        x, free = _back_to_the_border(matrix, target, x, best, free)
        rejected[:] = False
    return x, False


def _back_to_the_border(
    matrix: Array, target: Array, x: Array, best: Array, free: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Go from ``x`` towards ``best`` until a variable reaches 0. Fix it at 0, solve for the others, and repeat."""
    while (blocking := np.flatnonzero(free & (best <= 0))).size:
        steps = x[blocking] / (x[blocking] - best[blocking])
        x = x + steps.min() * (best - x)
        free = free & (x > 0)
        free[blocking[steps.argmin()]] = False  # also if rounding left it just above 0: or the loop might not end
        x = np.where(free, x, 0.0)
        best = _least_squares(matrix, target, free)
    return best, free


def _least_squares(matrix: Array, target: Array, free: NDArray[np.bool_]) -> Array:
    x = np.zeros(matrix.shape[1])
    x[free] = np.linalg.lstsq(matrix[:, free], target, rcond=_DEPENDENT)[0]
    return x
