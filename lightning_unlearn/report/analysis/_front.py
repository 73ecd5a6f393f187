"""Which of several models nobody beats in both utility and robustness."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other point reaches in one respect and beats in the other, more being better.

    Args:
        points: Utility and robustness of each model.

    Example:
        >>> pareto_front([(0.9, 0.2), (0.5, 0.8), (0.4, 0.7), (0.9, 0.1)])
        [0, 1]
    """
    return [number for number, point in enumerate(points) if not any(_beats(other, point) for other in points)]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]
