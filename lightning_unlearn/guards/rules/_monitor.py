from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.cone import Correction
from lightning_unlearn.guards.rules._base import Rule


class Monitor(Rule):
    """Allow every step, and log what it does. The fit equals the fit without a guard, to the bit.

    Example:
        >>> K = torch.eye(2, dtype=torch.float64)
        >>> Monitor().multipliers(K, torch.tensor([2.0, -3.0], dtype=torch.float64)).multipliers
        tensor([0., 0.], dtype=torch.float64)
    """

    corrects: ClassVar[bool] = False

    @override
    def multipliers(self, gramian: Tensor, along: Tensor) -> Correction:
        nothing = torch.zeros_like(along)
        return Correction(nothing, nothing.sum(-1), torch.ones_like(nothing.sum(-1), dtype=torch.bool))

    @override
    def breach(self, cosines: Tensor) -> Tensor:
        return cosines.max()
