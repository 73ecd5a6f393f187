from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, ObservedGradient
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.sources._base import GradientSource
from lightning_unlearn.guards.storages import Storage


class FitGradient(GradientSource):
    """The fit's own gradient, copied before anybody adds to it. Costs no pass of its own.

    Args:
        engine: Knows how gradients are reduced.
        params: The parameters whose gradients are needed.
        storage: How gradients are kept.
        per_micro_batch: Whether to keep one gradient per micro-batch, or one per step.
    """

    def __init__(
        self, engine: GradientEngine, params: Sequence[Tensor], storage: Storage, *, per_micro_batch: bool
    ) -> None:
        self._observed = ObservedGradient(engine, params, keep=storage.stored, per_micro_batch=per_micro_batch)

    @override
    def after_backward(self, *, is_last: bool) -> None:
        self._observed.after_backward(is_last=is_last)

    @override
    def take(self) -> Sequence[Direction]:
        return self._observed.take()

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        self._observed.cover(params)
