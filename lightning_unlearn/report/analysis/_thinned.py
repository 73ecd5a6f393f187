from __future__ import annotations

MOST_POINTS = 2000  # of a curve: more than a page can show, and few enough to travel in every checkpoint


def add_point(curve: list[dict[str, float]], point: dict[str, float], most: int = MOST_POINTS) -> None:
    """Add a point to a curve, in place, and thin it: however long it runs, it holds at most ``most`` points.

    The first and the newest point are kept, and of those between every ``2^k``-th step. Which ones these are depends on the
    steps alone, so a curve that was saved and loaded in its middle goes on as one that was not.

    Args:
        curve: Points so far, each with its ``step``.
        point: The new one, of a later step.
        most: The most points to hold, at least 3.

    Example:
        >>> curve = []
        >>> for step in range(1, 20):
        ...     add_point(curve, {"step": step}, most=8)
        >>> [point["step"] for point in curve]
        [1, 5, 9, 13, 17, 19]
    """
    first = curve[0]["step"] if curve else point["step"]
    apart = 1
    while point["step"] - first > (most - 1) * apart:
        apart *= 2
    # The newest so far was kept because it was the newest.
    if len(curve) > 1 and (curve[-1]["step"] - first) % apart:
        del curve[-1]
    if len(curve) >= most:
        curve[:] = [kept for kept in curve if (kept["step"] - first) % apart == 0]
    curve.append(point)
