"""Vectors in a quarter of the memory: 256 elements at a time as int8, with one scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH = 256
"""Number of elements that share a scale."""


def is_packed(tensor: Tensor) -> bool:
    """Whether ``tensor`` is what :func:`pack_int8` returns: no gradient is made of integers."""
    return tensor.dtype == torch.int8


def pack_int8(tensor: Tensor) -> Tensor:
    r"""``tensor`` as :math:`s_b \, q_i` with :math:`q_i = \operatorname{round}(x_i / s_b)`, :math:`s_b = \max_b |x| / 127`.

    Each element is off by at most half a scale: 1/254 of the largest of the 256 it is with. What is not finite stays so.

    Args:
        tensor: ``n`` elements of any shape.

    Returns:
        One tensor, that checkpoints take as it is: ``[ceil(n / 256), 260]`` int8, the float32 scale in the last four bytes.

    Example:
        >>> packed = pack_int8(torch.tensor([1.0, -0.5, 0.0]))
        >>> packed.shape, packed[0, :3].tolist()
        (torch.Size([1, 260]), [127, -64, 0])
    """
    flat = tensor.detach().reshape(-1).float()
    blocks = F.pad(flat, (0, -len(flat) % WIDTH)).view(-1, WIDTH)
    scales = blocks.abs().amax(1) / 127
    codes = (blocks / torch.where(scales == 0, 1, scales)[:, None]).round_().to(torch.int8)
    return torch.cat([codes, scales.view(torch.int8).view(-1, 4)], 1)


def unpack_int8_(out: Tensor, packed: Tensor, start: int) -> None:
    """Write the elements from ``start``, a multiple of 256, on to ``out [n]``.

    Example:
        >>> out = torch.empty(2, dtype=torch.float64)
        >>> unpack_int8_(out, pack_int8(torch.tensor([1.0, -0.5, 0.0])), start=0)
        >>> out
        tensor([ 1.0000, -0.5039], dtype=torch.float64)
    """
    rows = packed[start // WIDTH : -(-(start + len(out)) // WIDTH)].to(out.device)
    scales = rows[:, WIDTH:].contiguous().view(torch.float32).to(out.dtype)
    if len(out) % WIDTH == 0:
        out.view(-1, WIDTH).copy_(rows[:, :WIDTH]).mul_(scales)
    else:
        out.copy_((rows[:, :WIDTH] * scales).view(-1)[: len(out)])
