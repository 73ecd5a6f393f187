from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import CapturedRows
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.storages._base import Storage


class MatrixFree(Storage):
    """No gradients are held. They are computed again, block by block, from inputs and output gradients of layers.

    For :class:`PerExample` in one process. Memory grows with the number of tokens, not with the number of examples.

    Example:
        >>> MatrixFree().holds_gradients
        False
    """

    allows_restrictions: ClassVar[bool] = False
    allows_several_processes: ClassVar[bool] = False
    holds_gradients: ClassVar[bool] = False
    can_be_joined: ClassVar[bool] = False

    @override
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        raise NotImplementedError(
            "`MatrixFree` should be given inputs and output gradients of layers. Found a gradient. Use `Float32()`."
        )

    @override
    def rows(self, directions: Sequence[Direction], numbers: Sequence[int], sizes: Sequence[int]) -> Rows:
        if not isinstance(directions, CapturedRows):  # a step without examples, or whose gradients were not finite
            return super().rows(directions, numbers, sizes)
        (only,) = numbers
        return directions.by_parameter[only]
