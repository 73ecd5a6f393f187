from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.functional.bundles import joined, spread_
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.guards.geometries import Geometry
from lightning_unlearn.runtime import local


@dataclass(frozen=True)
class Part:
    """What is worked on at once: a parameter, or many small ones of one scope as one long vector.

    Args:
        params: One or many.
        settings: The optimizer's settings for each.
        scope: Number of their scope.
        rows: The gradients by them, one for each direction.
        before: Their weights before the step, which belong to the step.
    """

    params: Sequence[Tensor]
    settings: Sequence[dict[str, Any]]
    scope: int
    rows: Rows
    before: Tensor

    def weights(self) -> Tensor:
        """The only parameter's own, or a copy."""
        whole = joined([local(p).detach() for p in self.params], self._sizes)
        assert whole is not None
        return whole

    def write_(self, weights: Tensor) -> None:
        """Let the parameters be ``weights``: what :meth:`weights` returned, changed, or those before the step."""
        if weights.data_ptr() != local(self.params[0]).data_ptr():
            spread_([local(p).detach() for p in self.params], weights)

    def inverse_metric(self, geometry: Geometry, optimizer: torch.optim.Optimizer) -> Tensor | None:
        """Computed only when it is needed: kept for all parts, a diagonal metric would be one more copy of the model."""
        pairs = list(zip(self.params, self.settings, strict=True))
        if len(pairs) == 1:
            return geometry.inverse_metric(optimizer, *pairs[0])
        found = [(geometry.inverse_metric(optimizer, p, settings), local(p).shape) for p, settings in pairs]
        return joined([None if m is None else m.expand(shape) for m, shape in found], self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [local(p).numel() for p in self.params]
