"""A cheap proof that weights are what they were."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_unlearn.functional.sharding import local, reshard


@torch.no_grad()
def checksum(network: nn.Module) -> int:
    """A 64-bit sum over the bits of all parameters and buffers this process holds, weighted by position.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = checksum(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight[0, 0].add_(1e-3)
        >>> checksum(layer) == before
        False
    """
    reshard(network)
    total = 0
    for number, tensor in enumerate([*network.parameters(), *network.buffers()], start=1):
        total = (total + number * _bits(local(tensor).detach())) % (1 << 64)
    return total


def _bits(tensor: Tensor) -> int:
    integers = tensor.contiguous().reshape(-1).view(torch.uint8)
    pad = -integers.numel() % 8
    words = torch.nn.functional.pad(integers, (0, pad)).view(torch.int64)
    odd = torch.arange(1, 2 * words.numel(), 2, device=words.device)
    return int((words * odd).sum())  # wraps around, as a checksum may
