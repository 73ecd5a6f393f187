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
    """Not at all: written out again, block by block, from inputs and output gradients of layers.

    For :class:`PerExample` in one process: memory goes by the number of tokens, not by that of examples.

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
        raise NotImplementedError("`MatrixFree` should be given what gradients are made of. Found a gradient.")

    @override
    def rows(self, directions: Sequence[Direction], numbers: Sequence[int], sizes: Sequence[int]) -> Rows:
        if not isinstance(directions, CapturedRows):  # a step without examples: there is nothing to write out
            return super().rows(directions, numbers, sizes)
        (only,) = numbers
        return directions.by_parameter[only]
