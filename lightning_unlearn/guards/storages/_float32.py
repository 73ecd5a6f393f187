from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.guards.storages._base import Storage, raised


class Float32(Storage):
    """As float32, on the device of the weights; as float64 if the weights are float64.

    Example:
        >>> Float32().stored(torch.ones(2, dtype=torch.bfloat16), scale=2.0)
        tensor([0.5000, 0.5000])
    """

    @override
    def stored(self, gradient: Tensor, scale: float = 1.0) -> Tensor:
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        return raised(gradient, scale).to(gradient.device, dtype, copy=True)
