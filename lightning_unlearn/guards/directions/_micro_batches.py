from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.guards.directions._base import Direction, Directions


class MicroBatches(Directions):
    """Protect the retain loss of each micro-batch of this step: as many directions as gradients are accumulated.

    They cost no pass of their own; under DDP, one more reduction for each but the last.

    Example:
        >>> len(MicroBatches().protected([[None], [None]]))
        2
    """

    per_micro_batch: ClassVar[bool] = True

    @override
    def protected(self, new: Sequence[Direction]) -> list[Direction]:
        return [*new]
