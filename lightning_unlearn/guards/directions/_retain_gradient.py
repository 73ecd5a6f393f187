from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.guards.directions._base import Direction, Directions


class RetainGradient(Directions):
    """Protect the retain loss of this step, over all its micro-batches: one direction, and the cheapest choice.

    Example:
        >>> len(RetainGradient().protected([[None]]))
        1
    """

    @override
    def protected(self, new: Sequence[Direction]) -> list[Direction]:
        return [*new]
