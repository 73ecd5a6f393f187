from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards.directions import Direction, ExampleGradients
from lightning_unlearn.guards.sources._base import GradientSource

MakeExamples = Callable[[Sequence[Tensor]], ExampleGradients]
"""From the parameters wanted to what takes the gradients of examples by them."""


class ExamplesOfFit(GradientSource):
    """Each example of the micro-batches that the fit trains on."""

    def __init__(self, make: MakeExamples, params: Sequence[Tensor]) -> None:
        self._make, self._examples = make, make(params)
        self._batches: list[Any] = []

    @override
    def saw_batch(self, batch: Any) -> None:
        self._batches.append(batch)

    @override
    def take(self) -> Sequence[Direction]:
        batches, self._batches = self._batches, []
        return self._examples.of(batches)

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        self._examples = self._make(params)


class ExamplesOfRetainSet(GradientSource):
    """Each example of as many micro-batches of a retain set as the fit takes."""

    def __init__(
        self, make: MakeExamples, params: Sequence[Tensor], stream: ForgetStream, engine: GradientEngine
    ) -> None:
        self._make, self._examples = make, make(params)
        self._stream, self._engine = stream, engine
        self._micro_batches = 0

    @override
    def saw_batch(self, batch: Any) -> None:
        self._micro_batches += 1

    @override
    def take(self) -> Sequence[Direction]:
        batches = [self._engine.to_device(next(self._stream)) for _ in range(self._micro_batches)]
        self._micro_batches = 0
        return self._examples.of(batches)

    @override
    def cover(self, params: Sequence[Tensor]) -> None:
        self._examples = self._make(params)

    @property
    def position(self) -> int:  # type: ignore[override]
        """How far the set has been read."""
        return self._stream.position

    @override
    def seek(self, position: int) -> None:
        self._stream.seek(position)
