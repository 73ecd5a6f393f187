from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import ObservedGradient
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.sources._base import GradientSource


class FitGradient(GradientSource):
    """The fit's own gradient, before anybody adds to it: no pass of its own."""

    def __init__(self, observed: ObservedGradient) -> None:
        self._observed = observed

    @override
    def after_backward(self, *, is_last: bool) -> None:
        self._observed.after_backward(is_last=is_last)

    @override
    def take(self) -> Sequence[Direction]:
        return self._observed.take()

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        self._observed.cover(params)
