from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Args:
        value: The point estimate.
        low: Lower end; None if there is no finite interval.
        high: Upper end; None if there is no finite interval.
        unbounded: Whether the interval runs through infinity, because the gap it divides by may be 0.
        examples: Number of examples behind it; 0 if there were no scores.
        entities: Number of distinct entities behind it.
        method: How the interval was made, in words; empty if there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    unbounded: bool = False
    examples: int = 0
    entities: int = 0
    method: str = ""
