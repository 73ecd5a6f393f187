from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine, Row, own_share, with_all_ranks
from lightning_unlearn.transforms import GradientTransform


class TransformsInOrder:
    """The gradient transforms of one fit, applied one after the other.

    Args:
        transforms: The transforms, in this order.
        engine: Knows how gradients are sharded.
    """

    def __init__(self, transforms: Sequence[GradientTransform], engine: GradientEngine) -> None:
        self._transforms = transforms
        self._engine = engine

    def __bool__(self) -> bool:
        return bool(self._transforms)

    def attach(self, module: nn.Module) -> None:
        """Attach each transform to the module, whose parameters must be those that the optimizer trains."""
        for transform in self._transforms:
            transform.attach(module)

    def __call__(self, row: Row, params: Sequence[Tensor]) -> Row:
        """Transform ``row``, unless it is not finite: the caller raises its own error then."""
        # Asks all ranks: transforms may gather shards, and a rank that left them out would let the others wait.
        if self._transforms and self._engine.is_finite(row):
            for transform in self._transforms:
                row = transform(row, params)
        return row

    def state_dict(self) -> dict[str, Any]:
        """State of each transform that has one. Collective: every rank must call it."""
        states = {str(i): state for i, t in enumerate(self._transforms) if (state := t.state_dict())}
        # Lightning saves the first process's state, which under FSDP would be that of its shards only.
        return with_all_ranks(states, self._engine) if states else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint left off, each process with its own shards."""
        states = own_share(state, self._engine, "The transforms of `Unlearn`")
        for i, transform in enumerate(self._transforms):
            if str(i) in states:
                transform.load_state_dict(states[str(i)])
