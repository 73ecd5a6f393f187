from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine import Row
from lightning_unlearn.transforms._snapshot import Snapshot

Restrict = Callable[[Row, Sequence[Tensor]], Row]
"""From a direction, and the parameters it is by, to the part of it along which steps may go."""


class Step:
    """One step of one optimizer, before and after it is taken.

    Args:
        optimizer: Whose step it is.
        restrictions: What each restriction of the fit leaves of a direction.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, restrictions: Sequence[Restrict] = ()) -> None:
        self.optimizer = optimizer
        self.snapshot = Snapshot()
        self._restrictions = restrictions

    @property
    def params(self) -> list[Tensor]:
        """All parameters of the optimizer, those of groups that were added last included."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def is_restricted(self) -> bool:
        """Whether there are restrictions."""
        return bool(self._restrictions)

    def before(self, *params: Tensor) -> Tensor:
        """The weights before the step of one parameter, or of several as one vector; they are shared: do not change them."""
        return self.snapshot.of(params)

    def allowed(self, direction: Row) -> Row:
        """The part of a direction along which all restrictions together let a step go.

        Args:
            direction: What this process holds of a gradient, one tensor for each of ``params``; it is left as it is.
        """
        for restrict in self._restrictions:
            direction = restrict(direction, self.params)
        return direction
