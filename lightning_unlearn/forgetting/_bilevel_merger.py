from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import Row, move_
from lightning_unlearn.forgetting._curvature import Curvature
from lightning_unlearn.forgetting._merger import BatchLoss, Merger
from lightning_unlearn.forgetting._potential import Point, Potential
from lightning_unlearn.forgetting._vantage_points import VantagePoints
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.runtime import in_own_containers


class BilevelMerger(Merger):
    """Adds the gradient-norm term to the retain gradient, where :class:`Merger` adds the forget gradient.

    Args:
        potential: What the inner loop minimises.
        curvature: How gradients of gradients are computed.
        rho: Weight of the squared norm of the potential's gradient.
        vantage: That of the fit.
        zero: Is shown what was measured.
    """

    def __init__(
        self, potential: Potential, curvature: Curvature, rho: float, vantage: VantagePoints, zero: ZeroGradient
    ) -> None:
        super().__init__(potential.engine, None, 1.0, vantage, zero=zero)
        self._potential, self._curvature, self._rho = potential, curvature, rho
        self._early: list[Any] = []
        self._retain: list[Any] = []

    @property
    @override
    def only_adds(self) -> bool:
        return False

    @override
    def pass_over(self) -> None:
        super().pass_over()
        self._early = []
        self._retain.clear()

    def saw_retain_batch(self, batch: Any) -> None:
        """Keep a retain micro-batch of this step."""
        if self._potential.beta:
            self._retain.append(in_own_containers(batch))

    def ascend(self, batches: Sequence[Any], params: Sequence[Tensor], restrict: Any, *, steps: int, lr: float) -> None:
        """Take ``steps`` steps against the potential's gradient, each of length ``lr`` relative to the weights.

        Args:
            batches: The first forget micro-batches of this step. They are part of the step's gradient-norm term, too.
            params: The parameters that the optimizer trains.
            restrict: From a direction and the parameters to the part of it that steps may follow.
            steps: Their number.
            lr: Their length.
        """
        self._early = list(batches)
        point = Point(batches, self._retain, params, divisor=len(batches))
        for _ in range(steps):
            row, losses = self._curvature.gradient(self._potential, point)
            row = restrict(row, params)
            weights: Row = [p.detach() for p in params]
            gramian = self._engine.gramian([row, weights], params)
            self._refuse_not_finite(losses.mean(), gramian)
            length, whole = (sqrt(square) for square in gramian.diagonal().tolist())
            # A bounded loss that has reached its bound pushes no more; below float32's range there is no direction, either.
            if length > torch.finfo(torch.float32).tiny:
                move_(self._engine, params, row, -lr * whole / length)

    @override
    def merge_(
        self,
        loss: BatchLoss,
        batches: Sequence[Any],
        params: Sequence[Tensor],
        *,
        accumulate: int,
        measured: bool,
        joined: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        forget, self._early = [*self._early, *batches], []
        point = Point(forget, self._retain, params, divisor=accumulate)
        row, losses = self._curvature.gradient(self._potential, point)
        gramian = self._engine.gramian([row, [p.grad for p in params]], params)
        self._refuse_not_finite(losses.mean(), gramian)
        if self._rho:
            _add_(params, self._curvature.norm_gradient(self._potential, point, row), self._rho)
        self._retain.clear()
        return self._shown(losses.mean(), gramian)


@torch.no_grad()
def _add_(params: Sequence[Tensor], row: Row, weight: float) -> None:
    for p, term in zip(params, row, strict=True):
        if term is not None:
            p.grad = term.mul(weight) if p.grad is None else p.grad.add_(term, alpha=weight)
