"""Vectors in a quarter of the memory: 256 elements at a time as int8, with one scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_unlearn.functional.rows import Rows

WIDTH = 256
"""Number of elements that share a scale."""


def pack_int8(tensor: Tensor) -> Tensor:
    r"""``tensor`` as :math:`s_b \, q_i` with :math:`q_i = \operatorname{round}(x_i / s_b)`, :math:`s_b = \max_b |x| / 127`.

    The error of an element is at most half a scale, that is, 1/254 of the largest of its 256 neighbours. A block that is
    not finite stays so.

    Args:
        tensor: ``n`` elements of any shape.

    Returns:
        ``[ceil(n / 256), 260]`` int8, with the float32 scale in the last four bytes: one tensor, for checkpoints.

    Example:
        >>> packed = pack_int8(torch.tensor([1.0, -0.5, 0.0]))
        >>> packed.shape, packed[0, :3].tolist()
        (torch.Size([1, 260]), [127, -64, 0])
    """
    packed = room_for_int8(tensor)
    pack_int8_(packed, tensor, slice(0, len(packed)))
    return packed


def room_for_int8(tensor: Tensor) -> Tensor:
    """An uninitialised tensor of the shape of ``pack_int8(tensor)``."""
    return torch.empty(-(-tensor.numel() // WIDTH), WIDTH + 4, dtype=torch.int8, device=tensor.device)


def pack_int8_(packed: Tensor, tensor: Tensor, here: slice) -> None:
    """Fill in the blocks ``here`` of a result of :func:`room_for_int8`. Blocks are independent: threads may share the work.

    Example:
        >>> vector = torch.arange(600.0)
        >>> packed = room_for_int8(vector)
        >>> for block in range(3):
        ...     pack_int8_(packed, vector, slice(block, block + 1))
        >>> torch.equal(packed, pack_int8(vector))
        True
    """
    values = tensor.detach().reshape(-1)[here.start * WIDTH : here.stop * WIDTH]
    whole = len(values) // WIDTH
    _pack_(packed[here][:whole], values[: whole * WIDTH].view(-1, WIDTH))
    if rest := len(values) % WIDTH:  # zeros pad the last block, and do not change its largest element
        _pack_(packed[here][whole:], F.pad(values[-rest:], (0, WIDTH - rest))[None])


def _pack_(packed: Tensor, blocks: Tensor) -> None:
    if not len(blocks):
        return
    blocks = blocks.float()
    scales = blocks.abs().amax(1, keepdim=True) / 127
    # A block of zeros has the scale 0: divided by 1 instead, its codes are 0. A scale of NaN or infinity marks the block.
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
    """Write elements of ``k`` vectors, from ``start`` on, into the rows of ``out [k, n]``.

    Args:
        out: Is overwritten.
        codes: The codes of the ``k`` vectors.
        scales: Their scales, ``[k, blocks, 1]``.
        start: Number of the first element, a multiple of 256.

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
    torch._foreach_copy_(list(blocks.unbind()), [c[here] for c in codes])  # one call for all vectors
    blocks *= scales[:, here].to(out.dtype)
    if rest:
        out.copy_(blocks.flatten(1)[:, : out.shape[1]])


class PackedRows(Rows):
    """Rows packed by :func:`pack_int8`; ``None`` counts as zero.

    Example:
        >>> block = torch.zeros(2, 256)
        >>> PackedRows([pack_int8(torch.full((300,), 127.0)), None]).fill_(block, slice(0, 256))
        >>> block[:, 0].tolist()
        [127.0, 0.0]
    """

    width = WIDTH  # so that no block of a caller cuts one of ours in two

    def __init__(self, packed: Sequence[Tensor | None]) -> None:
        self._packed = list(packed)
        held = [(i, codes_and_scales(t)) for i, t in enumerate(packed) if t is not None]
        self._places = [i for i, _ in held]
        self._codes = [codes for _, (codes, _) in held]
        self._scales = torch.stack([scales for _, (_, scales) in held]) if held else None

    @override
    def __len__(self) -> int:
        return len(self._packed)

    @override
    def fill_(self, block: Tensor, here: slice) -> None:
        if self._scales is None:
            block.zero_()
        elif len(self._places) == len(self):
            unpack_int8_(block, self._codes, self._scales, here.start)
        else:
            out = block.new_empty(len(self._places), block.shape[1])
            unpack_int8_(out, self._codes, self._scales, here.start)
            block.zero_()[self._places] = out

    @override
    def among(self, wanted: Sequence[int]) -> tuple[Rows, list[int]]:
        return PackedRows([self._packed[j] for j in wanted]), list(wanted)
