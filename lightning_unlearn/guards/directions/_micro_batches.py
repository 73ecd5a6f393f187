from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from lightning_unlearn.guards.directions._base import Direction, Directions


class MicroBatches(Directions):
    """Protect the retain loss of each micro-batch of this step: one direction per accumulated micro-batch.

    Needs no extra pass. Under DDP each micro-batch but the last costs one more reduction.

    Example:
        >>> len(MicroBatches().protected([[None], [None]]))
        2
    """

    per_micro_batch: ClassVar[bool] = True

    @override
    def protected(self, new: Sequence[Direction]) -> list[Direction]:
        return [*new]
