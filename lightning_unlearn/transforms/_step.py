from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine import Row
from lightning_unlearn.transforms._snapshot import Snapshot

Restrict = Callable[[Row, Sequence[Tensor]], Row]
"""From a direction and its parameters to the part of it that steps may follow."""


class Step:
    """One step of one optimizer: it exists from before the step until all transforms have changed it.

    Args:
        optimizer: The optimizer that takes it.
        restrictions: For each restriction of the fit, the function that projects a direction.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, restrictions: Sequence[Restrict] = ()) -> None:
        self.optimizer = optimizer
        self.snapshot = Snapshot()
        self._restrictions = restrictions

    @property
    def params(self) -> list[Tensor]:
        """All parameters of the optimizer, also those of groups that were added during the fit."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def is_restricted(self) -> bool:
        """Whether there are restrictions."""
        return bool(self._restrictions)

    def before(self, *params: Tensor) -> Tensor:
        """Weights before the step: of one parameter, or of several as one vector. All transforms share them: read only."""
        return self.snapshot.of(params)

    def allowed(self, direction: Row) -> Row:
        """The part of a direction that all restrictions allow.

        Args:
            direction: Local shards of a gradient, one tensor for each of ``params``. It is not changed.
        """
        for restrict in self._restrictions:
            direction = restrict(direction, self.params)
        return direction
