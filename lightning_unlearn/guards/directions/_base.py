from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

Direction = list[Tensor | None]
"""Gradient of a loss: local shards, one tensor per parameter; ``None`` for a parameter without a gradient."""


class Directions(ABC):
    """Which losses are protected, each by its gradient.

    Attributes:
        per_micro_batch: Whether each micro-batch of a step is a separate loss. If not, all of them together are one.
    """

    per_micro_batch: ClassVar[bool] = False

    @abstractmethod
    def protected(self, new: Sequence[Direction]) -> Sequence[Direction]:
        """The gradients to protect in this step: first ``new``, those of this step, then remembered ones."""

    def remember(self, new: Sequence[Direction]) -> None:
        """The step was taken: keep its gradients ``new``, if later steps are to protect them."""

    def state_dict(self) -> dict[str, Any]:
        """Past gradients, for a checkpoint. Under FSDP: this process's shards."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint left off. An empty ``state`` forgets all past gradients."""

    def __repr__(self) -> str:
        """The class and its settings."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in public.items())})"
