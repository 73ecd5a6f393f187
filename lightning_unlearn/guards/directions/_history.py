from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.guards.directions._base import Direction, Directions


class History(Directions):
    """Protect the retain loss of this step and of those before it, each by the gradient it had then.

    Gradients of past steps are those of past weights: what is promised for them holds near those weights only. On small
    language models a history of eight kept retain data that the guard had not seen better than this step's gradient alone,
    and in bf16 as well as in float32 (``benchmarks/README.md``).

    Args:
        length: Number of directions, this step's included, at least 1. Each takes as much memory as a gradient, here and
            in checkpoints.

    Example:
        >>> history = History(length=2)
        >>> for step in range(3):
        ...     protected = history.protected([[None]])
        ...     history.remember([[None]])
        >>> len(protected)
        2
    """

    def __init__(self, length: int = 8) -> None:
        if length < 1:
            raise ValueError(f"`length` should be at least 1: this step's direction. Found `length = {length}`.")
        self.length = length
        self._past: deque[Direction] = deque(maxlen=length - 1)

    @override
    def protected(self, new: Sequence[Direction]) -> list[Direction]:
        return [*new, *self._past]

    @override
    def remember(self, new: Sequence[Direction]) -> None:
        self._past.extendleft(new)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"past": [list(direction) for direction in self._past]}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._past = deque(state.get("past", []), maxlen=self.length - 1)
