"""Vectors in a quarter of the memory: 256 elements at a time as int8, with one scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.runtime import map_in_threads

WIDTH = 256
"""Number of elements that share a scale."""

# So few at a time stay in a processor's cache; a graphics card wants few large kernels.
_BLOCKS = {"cpu": 512}
_MANY_BLOCKS = 1 << 14


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
    flat = tensor.detach().reshape(-1)
    packed = torch.empty(-(-len(flat) // WIDTH), WIDTH + 4, dtype=torch.int8, device=flat.device)
    whole = len(flat) // WIDTH
    size = _BLOCKS.get(flat.device.type, _MANY_BLOCKS)

    def fill(start: int) -> None:
        here = slice(start, min(start + size, whole))
        _pack_(packed[here], flat[here.start * WIDTH : here.stop * WIDTH].view(-1, WIDTH))

    map_in_threads(fill, range(0, whole, size), flat.device)
    if len(flat) % WIDTH:
        _pack_(packed[whole:], F.pad(flat[whole * WIDTH :], (0, -len(flat) % WIDTH))[None])
    return packed


def _pack_(packed: Tensor, blocks: Tensor) -> None:
    blocks = blocks.float()
    scales = blocks.abs().amax(1, keepdim=True) / 127
    packed[:, :WIDTH] = (blocks / torch.where(scales == 0, 1, scales)).round_()
    packed[:, WIDTH:] = scales.view(torch.int8)


def codes_and_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers, ``[ceil(n / 256), 256]`` int8, and the scale of each block, ``[ceil(n / 256), 1]`` float32.

    Example:
        >>> codes, scales = codes_and_scales(pack_int8(torch.tensor([127.0, -64.0])))
        >>> codes[0, :2].tolist(), scales.tolist()
        ([127, -64], [[1.0]])
    """
    return packed[:, :WIDTH], packed[:, WIDTH:].contiguous().view(torch.float32)


def unpack_int8_(out: Tensor, codes: Sequence[Tensor], scales: Tensor, start: int) -> None:
    """Write the elements from ``start``, a multiple of 256, on to the rows of ``out [k, n]``.

    Args:
        out: Whatever it holds.
        codes: Those of ``k`` vectors.
        scales: All of theirs, ``[k, blocks, 1]``, of the type of ``out``.
        start: Number of the first element.

    Example:
        >>> codes, scales = codes_and_scales(pack_int8(torch.tensor([1.0, -0.5, 0.0])))
        >>> out = torch.empty(1, 2)
        >>> unpack_int8_(out, [codes], scales[None], start=0)
        >>> out
        tensor([[ 1.0000, -0.5039]])
    """
    here = slice(start // WIDTH, -(-(start + out.shape[1]) // WIDTH))
    rest = out.shape[1] % WIDTH
    blocks = out.new_empty(len(out), here.stop - here.start, WIDTH) if rest else out.unflatten(1, (-1, WIDTH))
    torch._foreach_copy_(list(blocks.unbind()), [c[here] for c in codes])  # in one call, which others can overlap
    blocks *= scales[:, here]
    if rest:
        out.copy_(blocks.flatten(1)[:, : out.shape[1]])
