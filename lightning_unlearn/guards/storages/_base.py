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
    """How protected gradients are kept, from the backward pass that computes them to the steps that need them.

    Attributes:
        allows_restrictions: Whether kept gradients can be projected, as a restriction such as ``SubspaceGuard`` does.
        allows_several_processes: Whether it works where data or weights are spread over processes.
        holds_gradients: Whether gradients are held in memory at all.
        can_be_joined: Whether gradients of many small parameters can be joined to one long vector.
    """

    allows_restrictions: ClassVar[bool] = True
    allows_several_processes: ClassVar[bool] = True
    holds_gradients: ClassVar[bool] = True
    can_be_joined: ClassVar[bool] = True

    @abstractmethod
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """A copy of ``gradient``, divided by ``scale``, the factor of a gradient scaler.

        A copy even where dtype and device are the same: ``p.grad`` is changed in place by clipping and by the next merge.
        """

    def rows(self, directions: Sequence[Direction], numbers: Sequence[int], sizes: Sequence[int]) -> Rows:
        """The gradients of some parameters as rows, one row for each of ``directions``.

        Args:
            directions: Results of :meth:`stored`, for each loss and each parameter.
            numbers: Numbers of the parameters: one, or several if they ``can_be_joined``.
            sizes: Number of elements of each of them.
        """
        return StoredRows([joined([row[i] for i in numbers], sizes) for row in directions])

    def device(self, weights: torch.device) -> torch.device:
        """The device of gradients whose weights are on ``weights``. A resumed fit moves saved gradients there."""
        return weights

    def __repr__(self) -> str:
        """The class: storages have no settings."""
        return f"{type(self).__name__}()"


def raised(gradient: Tensor, scale: float) -> Tensor:
    """``gradient / scale`` in float32 at least; the tensor itself, not a copy, if ``scale`` is 1."""
    # Float32 before the division: a scaled fp16 gradient divided by 2^16 would fall below the smallest fp16 number.
    if scale == 1:
        return gradient.detach()
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)) / scale
