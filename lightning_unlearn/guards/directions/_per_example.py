from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from lightning_unlearn.guards.directions._base import Direction, Directions


class PerExample(Directions):
    r"""Protect each retain example of this step by itself: no example may pay for another.

    The losses are those of the examples, each the mean over its own supervised tokens, of the micro-batches of
    ``StepGuard(retain=...)``; or, without ``retain``, of the micro-batches the fit trains on, read by the guard's readout:
    what is protected then is the guard's ``objective`` on them, cross-entropy unless you say otherwise, and not the fit's
    own loss, whose examples nobody can tell apart. Either way this costs passes of its own.

    They are taken in evaluation mode: the loss of the network as it is used, without dropout, in which examples do not
    meet in a BatchNorm, and no buffer or random generator is touched.

    Under DDP and FSDP the ``j``-th direction is the mean of the ``j``-th examples of all ranks, for as many as every rank
    has.

    With ``StepGuard(storage=MatrixFree())`` the gradients are not held, but written out from what they are made of:
    memory goes by the number of tokens, not by that of examples.

    Args:
        limit: Number of examples protected at most, the first of the step, at least 1. Defaults to all.

    Example:
        >>> PerExample(limit=8)
        PerExample(limit=8)
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"`limit` should be at least 1, or `None` for all examples. Found `limit = {limit}`.")
        self.limit = limit

    @override
    def protected(self, new: Sequence[Direction]) -> Sequence[Direction]:
        return new
