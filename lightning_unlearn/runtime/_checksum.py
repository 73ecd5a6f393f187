"""A cheap proof that weights have not changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.runtime._sharding import drop_copies, local

_BLOCK, _BLOCK_ON_CPU = 1 << 20, 1 << 16
"""Words that are hashed at once: as many as fit a CPU's cache; elsewhere more, since each block waits for the device."""
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15, odd


@torch.no_grad()
def checksum(network: nn.Module) -> int:
    """A 64-bit hash of the bits of all parameters and buffers this process holds, and of their order.

    The scales of weights in few bits, which bitsandbytes holds beside them, count as well.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = checksum(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight[0, 0].add_(1e-3)
        >>> checksum(layer) == before
        False
    """
    drop_copies(network)  # or `parameters()` would be the gathered copies that FSDP2 may have kept
    total = 0
    for tensor in [*network.parameters(), *network.buffers(), *_scales(network)]:
        total = (total * 31 + tensor_checksum(local(tensor).detach())) % (1 << 64)
    return total


@torch.no_grad()
def tensor_checksum(tensor: Tensor) -> int:
    """A 64-bit hash of the bits of one tensor.

    Example:
        >>> tensor_checksum(torch.zeros(2)) == tensor_checksum(-torch.zeros(2))
        False
    """
    # Bits, not values: NaN would differ from itself, and -0.0 would equal 0.0.
    integers = tensor.contiguous().reshape(-1).view(torch.uint8)
    total = 0
    size = 8 * (_BLOCK_ON_CPU if tensor.device.type == "cpu" else _BLOCK)
    for start in range(0, integers.numel(), size):  # in blocks, so that the 64-bit copies stay small
        block = integers[start : start + size]
        words = torch.nn.functional.pad(block, (0, -block.numel() % 8)).view(torch.int64)
        # By the number of the word, so that the sum does not depend on the size of blocks.
        places = _mixed_(torch.arange(start // 8, start // 8 + words.numel(), device=words.device))
        total += int(_mixed_(places.add_(words)).sum())
    return total % (1 << 64)


def _scales(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        weight: Any = module._parameters.get("weight")
        # Of 4-bit weights, those of weights in blocks, and of these scales in blocks.
        state = getattr(weight, "quant_state", None)
        yield from (s.absmax for s in (state, getattr(state, "state2", None)) if s is not None)
        # Of int8 weights: a parameter holds them until the first pass, and then its layer.
        holders: Any = (weight, getattr(module, "state", None)) if type(weight).__name__ == "Int8Params" else ()
        yield from (holder.SCB for holder in holders if getattr(holder, "SCB", None) is not None)


def _mixed_(words: Tensor) -> Tensor:
    # In a plain sum modulo 2^64, two flips of the highest bit (a sign) cancel. Mixing spreads each bit over the word.
    words.bitwise_xor_(words >> 30).mul_(_MIX)
    return words.bitwise_xor_(words >> 27)
