from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_unlearn.functional.bundles import joined
from lightning_unlearn.functional.rows import Rows, StoredRows
from lightning_unlearn.guards.directions import Direction


class Storage(ABC):
    """How protected gradients are kept between the pass that brings them and the steps they are needed in.

    Attributes:
        allows_restrictions: Whether what is kept can be projected, as a restriction such as ``SubspaceGuard`` asks for.
        allows_several_processes: Whether it works where data or weights are spread over processes.
        holds_gradients: Whether each gradient is held at all.
        can_be_joined: Whether the gradients by many small parameters can be worked on as one long vector.
    """

    allows_restrictions: ClassVar[bool] = True
    allows_several_processes: ClassVar[bool] = True
    holds_gradients: ClassVar[bool] = True
    can_be_joined: ClassVar[bool] = True

    @abstractmethod
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """A copy of ``gradient``, divided by ``scale``."""

    def rows(self, directions: Sequence[Direction], numbers: Sequence[int], sizes: Sequence[int]) -> Rows:
        """The gradients by some parameters as rows, one for each of ``directions``.

        Args:
            directions: What :meth:`stored` gave, for each loss and each parameter.
            numbers: Of the parameters: one, or several if they ``can_be_joined``.
            sizes: Number of elements of each of them.
        """
        return StoredRows([joined([row[i] for i in numbers], sizes) for row in directions])

    def device(self, weights: torch.device) -> torch.device:
        """Where gradients are kept of weights that are on ``weights``."""
        return weights

    def __repr__(self) -> str:
        """The class: storages have no settings."""
        return f"{type(self).__name__}()"


def raised(gradient: Tensor, scale: float) -> Tensor:
    """``gradient / scale`` in float32 at least; the tensor itself where there is nothing to divide."""
    if scale == 1:
        return gradient.detach()
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)) / scale
