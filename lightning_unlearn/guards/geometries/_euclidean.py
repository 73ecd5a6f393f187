from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.guards.geometries._base import Geometry


class Euclidean(Geometry):
    """Every weight counts the same. Works with any optimizer, and takes no memory.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> Euclidean().inverse_metric(torch.optim.SGD([weight]), weight, {}) is None
        True
    """

    is_constant: ClassVar[bool] = True

    @override
    def inverse_metric(
        self, optimizer: torch.optim.Optimizer, param: Tensor, settings: dict[str, object]
    ) -> Tensor | None:
        return None
