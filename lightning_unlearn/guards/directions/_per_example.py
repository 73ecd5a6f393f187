from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.guards.directions._base import Direction, Directions


class PerExample(Directions):
    r"""Protect each retain example of this step by itself: no example may pay for another.

    Each example's loss is the mean over its own supervised tokens. The examples are those of ``StepGuard(retain=...)``.
    Without ``retain`` they are those of the micro-batches the fit trains on, read by the guard's readout. Then the guard's
    ``objective`` on them is protected, by default cross-entropy. The fit's own loss cannot be: it is one number per batch.
    Either way this costs extra passes.

    Passes are in evaluation mode: without dropout, with BatchNorm's running statistics, so that examples do not depend on
    each other. Neither buffers nor random generators are touched.

    Under DDP and FSDP the ``j``-th direction is the mean over ranks of their ``j``-th examples. Examples that not every
    rank has are left out.

    With ``StepGuard(storage=MatrixFree())`` gradients are not held, but computed again from inputs and output gradients of
    layers. Memory then grows with the number of tokens, not with the number of examples.

    Args:
        limit: The most examples to protect, taken from the start of the step, at least 1. Defaults to all.

    Example:
        >>> PerExample(limit=8)
        PerExample(limit=8)
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None:
            check_whole("limit", limit, why=", or `None` for all examples")
        self.limit = limit

    @override
    def protected(self, new: Sequence[Direction]) -> Sequence[Direction]:
        return new
