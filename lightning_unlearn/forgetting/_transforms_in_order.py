from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine, Row, own_share, with_all_ranks
from lightning_unlearn.transforms import GradientTransform


class TransformsInOrder:
    """The gradient transforms of one fit, one after the other.

    Args:
        transforms: In the order in which they are applied.
        engine: How gradients are sharded.
    """

    def __init__(self, transforms: Sequence[GradientTransform], engine: GradientEngine) -> None:
        self._transforms = transforms
        self._engine = engine

    def __bool__(self) -> bool:
        return bool(self._transforms)

    def attach(self, module: nn.Module) -> None:
        """Show them the module; the parameters have to be those that the optimizer trains."""
        for transform in self._transforms:
            transform.attach(module)

    def __call__(self, row: Row, params: Sequence[Tensor]) -> Row:
        """Transform ``row``, unless it is not finite: the caller refuses that by its own error."""
        if self._transforms and self._engine.is_finite(row):
            for transform in self._transforms:
                row = transform(row, params)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Of each transform that has any; all processes have to ask."""
        states = {str(i): state for i, t in enumerate(self._transforms) if (state := t.state_dict())}
        # A checkpoint holds what the first process says, which under FSDP is of its shards only.
        return with_all_ranks(states, self._engine) if states else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off, each process its own shards."""
        states = own_share(state, self._engine, "The transforms of `Unlearn`")
        for i, transform in enumerate(self._transforms):
            if str(i) in states:
                transform.load_state_dict(states[str(i)])
