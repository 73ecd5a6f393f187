from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards.directions import Direction, ExampleGradients
from lightning_unlearn.guards.sources._base import GradientSource
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import in_own_containers


class Examples(GradientSource):
    """The gradient of each example: of the micro-batches that the fit trains on, or of as many from a retain set.

    Args:
        engine: Runs the passes.
        readout: How to run the network.
        objective: The loss of an example.
        storage: How gradients are kept.
        limit: Number of examples at most.
        params: The parameters whose gradients are needed.
        stream: The retain set; ``None`` for the fit's own micro-batches.
    """

    def __init__(
        self,
        engine: GradientEngine,
        readout: Readout,
        objective: Objective,
        storage: Storage,
        limit: int | None,
        params: Sequence[Tensor],
        stream: ForgetStream | None,
    ) -> None:
        self._engine, self._readout, self._objective, self._storage = engine, readout, objective, storage
        self._limit, self._stream = limit, stream
        self._batches: list[Any] = []
        self.cover(params)

    @override
    def saw_batch(self, batch: Any) -> None:
        # With a retain set only the number counts: holding the fit's batches would waste memory.
        self._batches.append(in_own_containers(batch) if self._stream is None else None)

    @override
    def take(self) -> Sequence[Direction]:
        batches, self._batches = self._batches, []
        if self._stream is not None:
            batches = [self._engine.to_device(next(self._stream)) for _ in batches]
        return self._examples.of(batches)

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        # Made anew: a capturing pass checks itself once for its set of parameters.
        keep = self._storage.stored if self._storage.holds_gradients else None
        parts = (self._engine, self._engine.module, self._readout, self._objective, params)
        self._examples = ExampleGradients(*parts, limit=self._limit, keep=keep)

    @property
    @override
    def position(self) -> int:
        return 0 if self._stream is None else self._stream.position

    @override
    def seek(self, position: int) -> None:
        if self._stream is not None:
            self._stream.seek(position)
