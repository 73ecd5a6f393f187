from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any

from torch import Tensor, nn


class Projector(nn.Module, ABC):
    """How the gradients of forgetting and retaining are merged: from their Gramian to their weights.

    Row 0 is the forget gradient, rows 1 to m - 1 are retain gradients. Lengths and angles of the rows are all in the
    ``m x m`` Gramian. It is summed over shards beforehand, so a projector is the same code with sharded parameters.

    What changes from step to step is a buffer: it is in checkpoints, and starts anew with each fit.
    """

    _first: dict[str, Any] | None = None

    @abstractmethod
    def forward(self, gramian: Tensor) -> Tensor:
        """Choose the weights.

        Args:
            gramian: Inner products of the rows, ``[m, m]`` float64, symmetric, positive semi-definite.

        Returns:
            ``[m]`` float64; the merged gradient is the sum of the rows times these.
        """

    def start_anew(self) -> None:
        """Go back to the state before the first fit: called when a fit starts. A checkpoint's is loaded after that."""
        if self._first is None:
            self._first = deepcopy(self.state_dict())
        else:
            self.load_state_dict(deepcopy(self._first))
