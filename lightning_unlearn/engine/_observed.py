from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._products import Row
from lightning_unlearn.runtime import local


class ObservedGradient:
    """The fit's own gradient, copied as soon as backward brings it: whatever is added to ``.grad`` later is not in it.

    Averaged over ranks; sharded parameters' gradients are what this process holds. A gradient scaler's factor is taken out.

    Args:
        engine: Says how gradients are reduced.
        params: The parameters wanted.
        keep: From a gradient and a scale to the copy to keep, divided by it.
        per_micro_batch: Whether each micro-batch's part is wanted by itself, or all together once.

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
        self._local: Row | None = None
        self._reduced: Row | None = None

    @torch.no_grad()
    def after_backward(self, *, is_last: bool) -> None:
        """A micro-batch has added its gradient; the ``is_last`` one of a step completes it, DDP's reduction included."""
        if not is_last and not self._per_micro_batch:
            return
        there: Row = [None if p.grad is None else local(p.grad).detach() for p in self._params]
        if is_last:
            # Under DDP, `p.grad` now is the mean over ranks of all micro-batches together. What the earlier ones brought was
            # averaged here, by hand; the difference is the last one's.
            own = there if self._reduced is None else _sum(there, self._reduced, -1)
            self._rows.append(self._kept(own))
            return
        brought = _sum(there, self._local, -1)
        self._local = _sum(there, None)
        self._engine._average_(brought, self._params)
        self._reduced = _sum(brought, self._reduced) if self._replicas else self._local
        self._rows.append(self._kept(brought))

    def take(self) -> list[Row]:
        """What was brought since the last time."""
        rows, self._rows = self._rows, []
        self._local = self._reduced = None
        return rows

    def cover(self, params: Sequence[Tensor]) -> None:
        """Parameters were added, behind those there were: what was brought so far has no gradient by them."""
        added: Row = [None] * (len(params) - len(self._params))
        self._params = params
        rows = [*self._rows, *(row for row in (self._local, self._reduced) if row is not None)]
        for row in {id(row): row for row in rows}.values():  # without replicas, the last two are one
            row.extend(added)

    def _kept(self, row: Row) -> Row:
        scale = self._engine._loss_scale()
        return [None if t is None else self._keep(t, scale) for t in row]


def _sum(row: Row, other: Row | None, factor: float = 1.0) -> Row:
    """New tensors, unless there is nothing to add."""
    if other is None:
        return [None if t is None else t.clone() for t in row]
    pairs = zip(row, other, strict=True)
    return [a if b is None else b * factor if a is None else a.add(b, alpha=factor) for a, b in pairs]
