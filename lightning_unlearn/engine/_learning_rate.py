from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def learning_rate(group: Mapping[str, Any]) -> float | None:
    """The learning rate of a parameter group; ``None`` if its optimizer finds its own, as ``Adafactor`` does.

    Example:
        >>> learning_rate({"lr": 0.1}), learning_rate({"lr": 0.0, "relative_step": True})
        (0.1, None)
    """
    rate = group.get("lr")
    return None if rate is None or group.get("relative_step") else float(rate)


def refuse_own_rates(groups: Iterable[Mapping[str, Any]], who: str) -> None:
    """Refuse an optimizer that finds its own learning rate, where that has to be known."""
    if any(learning_rate(group) is None for group in groups):
        raise NotImplementedError(
            f"`{who}` should find the learning rate of the optimizer. Found one that it makes up itself, as by "
            "`relative_step=True`. Use an optimizer with an `lr` of its own."
        )
