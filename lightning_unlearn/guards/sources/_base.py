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
        """How far it has read its own data, for checkpoints; 0 if it has none."""
        return 0

    def saw_batch(self, batch: Any) -> None:
        """The fit begins a micro-batch: called in ``on_train_batch_start``."""

    def after_backward(self, *, is_last: bool) -> None:
        """The fit has run a micro-batch backward. ``is_last`` says whether an optimizer step follows."""

    @abstractmethod
    def take(self) -> Sequence[Direction]:
        """The gradients of this step; none if they are not finite. Collective: every rank must call it."""

    @abstractmethod
    def cover(self, params: Sequence[Tensor]) -> None:
        """Parameters were appended to the optimizer. ``params`` are all of them, old and new."""

    def seek(self, position: int) -> None:
        """Continue to read its data at ``position``."""
