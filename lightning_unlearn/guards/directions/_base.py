from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

Direction = list[Tensor | None]
"""Gradient of a loss: what this process holds of it, one tensor per parameter, ``None`` where it has none."""


class Directions(ABC):
    """Which losses are protected, each by its gradient.

    Attributes:
        per_micro_batch: Whether each micro-batch of a step is a loss of its own, or all together are one.
    """

    per_micro_batch: ClassVar[bool] = False

    @abstractmethod
    def protected(self, new: Sequence[Direction]) -> Sequence[Direction]:
        """The gradients to protect in this step, those of this step, ``new``, first."""

    def remember(self, new: Sequence[Direction]) -> None:
        """The step was taken: what was new now is past."""

    def state_dict(self) -> dict[str, Any]:
        """What the next steps need of the past ones."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""

    def __repr__(self) -> str:
        """The class and its settings."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in public.items())})"
