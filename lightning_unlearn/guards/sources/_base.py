from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_unlearn.guards.directions import Direction


class GradientSource(ABC):
    """Where the protected gradients of a step come from."""

    @property
    def position(self) -> int:
        """How far it has read data of its own."""
        return 0

    def saw_batch(self, batch: Any) -> None:
        """The fit begins a micro-batch."""

    def after_backward(self, *, is_last: bool) -> None:
        """The fit's backward pass of a micro-batch is done; whether it is the last one of a step."""

    @abstractmethod
    def take(self) -> Sequence[Direction]:
        """The gradients of this step; none if they are not finite."""

    @abstractmethod
    def cover(self, params: Sequence[Tensor]) -> None:
        """Parameters were added to the optimizer, behind those there were: these are all."""

    def seek(self, position: int) -> None:
        """Go on reading where a checkpoint left off."""
