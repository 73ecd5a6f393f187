from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._products import Row
from lightning_unlearn.runtime import local


class ObservedGradient:
    """The fit's own gradient, copied right after backward, before anything else is added to ``.grad``.

    Copies are averaged over ranks, and divided by the gradient scaler's factor. Of sharded parameters they are the local
    shards.

    Args:
        engine: Knows how gradients are reduced.
        params: The parameters whose gradients are needed.
        keep: From a gradient and a scale to the copy to keep, which is divided by the scale.
        per_micro_batch: Whether to keep one gradient per micro-batch, or one per step.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> engine = GradientEngine(torch.nn.Linear(1, 1))
        >>> observed = ObservedGradient(engine, [weight], keep=torch.div, per_micro_batch=True)
        >>> for is_last in (False, True):
        ...     weight.sum().backward()
        ...     observed.after_backward(is_last=is_last)
        >>> observed.take()
        [[tensor([1., 1.])], [tensor([1., 1.])]]
    """

    def __init__(
        self,
        engine: GradientEngine,
        params: Sequence[Tensor],
        *,
        keep: Callable[[Tensor, float], Tensor],
        per_micro_batch: bool,
    ) -> None:
        self._engine, self._params, self._keep, self._per_micro_batch = engine, params, keep, per_micro_batch
        self._replicas = engine.kind == "ddp" and engine.world_size > 1
        self._rows: list[Row] = []
        self._local: Row | None = None  # what `p.grad` held after the last micro-batch, of this rank alone
        self._reduced: Row | None = None  # the same, averaged over DDP's ranks

    @torch.no_grad()
    def after_backward(self, *, is_last: bool) -> None:
        """Copy the gradient of a micro-batch from ``p.grad``. ``is_last`` says whether an optimizer step follows."""
        if not is_last and not self._per_micro_batch:
            return
        accumulated: Row = [None if p.grad is None else local(p.grad).detach() for p in self._params]
        if is_last:
            # DDP reduces in the last backward pass only: `p.grad` now is the mean over ranks of all micro-batches together.
            # The earlier ones were averaged below. The difference is the last micro-batch's gradient.
            own = accumulated if self._reduced is None else _sum(accumulated, self._reduced, -1)
            self._rows.append(self._kept(own))
            return
        # Under `no_sync`, `p.grad` is the sum of this rank's micro-batches so far: the difference is the newest one's.
        newest = _sum(accumulated, self._local, -1)
        self._local = _sum(accumulated, None)
        self._engine._average_(newest, self._params)
        self._reduced = _sum(newest, self._reduced) if self._replicas else self._local
        self._rows.append(self._kept(newest))

    def take(self) -> list[Row]:
        """The gradients copied since the last call."""
        rows, self._rows = self._rows, []
        self._local = self._reduced = None
        return rows

    def cover(self, params: Sequence[Tensor]) -> None:
        """Parameters were appended. ``params`` are all of them; gradients copied so far get ``None`` for the new ones."""
        added: Row = [None] * (len(params) - len(self._params))
        self._params = params
        rows = [*self._rows, *(row for row in (self._local, self._reduced) if row is not None)]
        for row in {id(row): row for row in rows}.values():  # without DDP the last two are one list: extend it once
            row.extend(added)

    def _kept(self, row: Row) -> Row:
        scale = self._engine._loss_scale()
        return [None if t is None else self._keep(t, scale) for t in row]


def _sum(row: Row, other: Row | None, factor: float = 1.0) -> Row:
    """``row + factor * other`` in new tensors. A tensor that is missing in ``other`` is not copied."""
    if other is None:
        return [None if t is None else t.clone() for t in row]
    pairs = zip(row, other, strict=True)
    return [a if b is None else b * factor if a is None else a.add(b, alpha=factor) for a, b in pairs]
