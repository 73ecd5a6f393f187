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
    """One unit of work: a parameter, or many small ones of one scope as one long vector. All tensors are local shards.

    Args:
        params: One parameter or many.
        settings: The parameter group of each.
        scope: Number of their scope.
        rows: Their gradients, one row for each direction.
        before: Their weights before the step. The step owns this tensor: do not change it.
    """

    params: Sequence[Tensor]
    settings: Sequence[dict[str, Any]]
    scope: int
    rows: Rows
    before: Tensor

    def weights(self) -> Tensor:
        """The weights now: the parameter's own memory if there is one parameter, a joined copy if there are several."""
        whole = joined([local(p).detach() for p in self.params], self._sizes)
        assert whole is not None
        return whole

    def write_(self, weights: Tensor) -> None:
        """Set the parameters to ``weights``: a changed result of :meth:`weights`, or the weights before the step."""
        # The same memory: the change was made in place, there is nothing to copy.
        if weights.data_ptr() != local(self.params[0]).data_ptr():
            spread_([local(p).detach() for p in self.params], weights)

    def inverse_metric(self, geometry: Geometry, optimizer: torch.optim.Optimizer) -> Tensor | None:
        """Diagonal of the inverse metric. Computed anew each time: kept for all parts, it would be a copy of the model."""
        pairs = list(zip(self.params, self.settings, strict=True))
        if len(pairs) == 1:
            return geometry.inverse_metric(optimizer, *pairs[0])
        metrics = [(geometry.inverse_metric(optimizer, p, settings), local(p).shape) for p, settings in pairs]
        # A metric of shape `[]` holds for the whole tensor: expand it before joining.
        return joined([None if m is None else m.expand(shape) for m, shape in metrics], self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [local(p).numel() for p in self.params]
