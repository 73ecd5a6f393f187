from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.guards.storages._base import Storage, raised


class MainMemory(Storage):
    """As float32 in the computer's main memory, which leaves the accelerator's free.

    Costs one transfer per step and direction.

    Example:
        >>> MainMemory().stored(torch.ones(2)).device
        device(type='cpu')
    """

    @override
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        return raised(gradient, scale).to(torch.device("cpu"), dtype, copy=True)

    @override
    def device(self, weights: torch.device) -> torch.device:
        return torch.device("cpu")
