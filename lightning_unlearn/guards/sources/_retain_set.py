from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, random_numbers_kept
from lightning_unlearn.guards.directions import Direction
from lightning_unlearn.guards.sources._base import GradientSource
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.runtime import eval_mode, local


class RetainSet(GradientSource):
    """The gradient on a separate retain set: as many micro-batches as the fit takes, in evaluation mode.

    Args:
        engine: Runs the passes.
        stream: The retain set.
        loss: From a micro-batch to its loss.
        params: The parameters whose gradients are needed.
        storage: How gradients are kept.
        per_micro_batch: Whether to give one gradient per micro-batch, or their mean.
    """

    def __init__(
        self,
        engine: GradientEngine,
        stream: ForgetStream,
        loss: Callable[[Any], Tensor],
        params: Sequence[Tensor],
        storage: Storage,
        *,
        per_micro_batch: bool,
    ) -> None:
        self._engine, self._stream, self._loss, self._params, self._storage = engine, stream, loss, params, storage
        self._per_micro_batch = per_micro_batch
        self._micro_batches = 0

    @override
    def saw_batch(self, batch: Any) -> None:
        self._micro_batches += 1

    @override
    def take(self) -> list[Direction]:
        batches = [self._engine.to_device(next(self._stream)) for _ in range(self._micro_batches)]
        self._micro_batches = 0
        groups = [[batch] for batch in batches] if self._per_micro_batch else [batches]
        try:
            # Kept once for all passes: in each they go on, and no two micro-batches get the same ones.
            with random_numbers_kept(), eval_mode(self._engine.module):
                # Divided by the number of micro-batches also where each has its own row: then the rows add up to the mean.
                rows = [self._engine.row(self._loss, group, self._params, divisor=len(batches))[0] for group in groups]
        except FloatingPointError:
            return []  # raised on every rank at once; the guard then undoes the step
        return [[None if t is None else self._storage.stored(local(t)) for t in row] for row in rows]

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        self._params = params

    @property
    @override
    def position(self) -> int:
        return self._stream.position

    @override
    def seek(self, position: int) -> None:
        self._stream.seek(position)
