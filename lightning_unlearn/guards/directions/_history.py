from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.guards.directions._base import Direction, Directions


class History(Directions):
    """Protect the retain losses of this step and of the steps before, each by the gradient it had then.

    Past gradients belong to past weights, so the promise for them holds near those weights only. On small language models
    a history of eight protected unseen retain data better than this step's gradient alone, in bf16 as well as in float32
    (``benchmarks/README.md``).

    Args:
        length: Number of directions, this step's included, at least 1. Each takes the memory of one gradient, also in
            checkpoints.

    Example:
        >>> history = History(length=2)
        >>> for step in range(3):
        ...     protected = history.protected([[None]])
        ...     history.remember([[None]])
        >>> len(protected)
        2
    """

    def __init__(self, length: int = 8) -> None:
        check_whole("length", length, why=": this step's direction")
        self.length = length
        self._past: deque[Direction] = deque(maxlen=length - 1)

    @override
    def protected(self, new: Sequence[Direction]) -> list[Direction]:
        return [*new, *self._past]

    @override
    def remember(self, new: Sequence[Direction]) -> None:
        # The newest first: `PastProducts` of one step are then the leading block of the next.
        self._past.extendleft(new)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"past": [list(direction) for direction in self._past]}  # plain collections, for `weights_only` loading

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._past = deque(state.get("past", []), maxlen=self.length - 1)
