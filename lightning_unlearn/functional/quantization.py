"""Quantising and dequantising at once: the weights that a low-bit deployment computes with, in their own dtype."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Codebook = Literal["nf4", "fp4"]
GroupSize = int | Literal["tensor"] | None
"""Inputs of a channel that share a scale; ``None`` for all of them, ``"tensor"`` for all weights of the tensor."""

_FP4 = [0.0625 / 12, 2 / 12, 3 / 12, 4 / 12, 6 / 12, 8 / 12, 1.0]
_NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
_LEVELS = {"nf4": _NF4, "fp4": [-level for level in reversed(_FP4)] + [0.0] + _FP4}


def round_to_nearest(weight: Tensor, *, bits: int, group_size: GroupSize = None) -> Tensor:
    r"""Round each weight to the nearest of ``2 ** bits - 1`` evenly spaced levels, symmetric around zero.

    .. math:: Q(w) = \frac{a}{q} \, \mathrm{round}\Bigl(\frac{q \, w}{a}\Bigr), \quad
        a = \max |w|, \quad q = 2^{\mathrm{bits} - 1} - 1

    with one :math:`a` per output channel, or per group of ``group_size`` inputs of a channel. The largest weight of a group
    is kept exactly, so a second rounding changes nothing (in half precision up to 8 bits).

    Args:
        weight: ``[out, ...]``, output channels first. The other axes are flattened to the inputs of a channel. A vector is
            one channel.
        bits: From 2 to 16.
        group_size: Number of inputs that share a scale. The last group of a channel may be shorter. Defaults to one scale
            per output channel; ``"tensor"`` for a single one.

    Returns:
        A new tensor of the shape and dtype of ``weight``.

    Example:
        >>> round_to_nearest(torch.tensor([[0.1, -0.9, 1.0]]), bits=2)
        tensor([[ 0., -1.,  1.]])
    """
    codes, absmax = _integer_blocks(weight, bits, group_size)
    return glue(codes / largest_code(bits) * absmax, weight).to(weight.dtype)


def round_to_codebook(weight: Tensor, codebook: Codebook, *, block_size: int = 64) -> Tensor:
    r"""Round to the 4-bit floating-point levels of bitsandbytes, bit for bit as bitsandbytes does.

    .. math:: Q(w) = a \, \arg\min_{c \in C} \left| \frac{w}{a} - c \right|, \quad a = \max |w|

    with one :math:`a` per block of ``block_size`` consecutive weights of the flattened tensor. Scales are not quantised
    in turn (``bnb_4bit_use_double_quant=False``).

    Args:
        weight: Any shape.
        codebook: ``"nf4"``, quantiles of a normal distribution, or ``"fp4"``, two exponent bits and one of mantissa.
        block_size: Weights that share a scale; the last block may be shorter.

    Returns:
        A new tensor of the shape and dtype of ``weight``.

    Example:
        >>> round_to_codebook(torch.tensor([0.1, -0.9, 2.0]), "fp4")
        tensor([ 0.0104, -1.0000,  2.0000])

    References:
        Dettmers et al., `QLoRA <https://arxiv.org/abs/2305.14314>`_, 2023, section 3 and appendix E, for NF4.
    """
    codes, absmax = _codebook_blocks(weight, codebook, block_size)
    return glue(levels_of(codebook, absmax)[codes] * absmax, weight).to(weight.dtype)


def integer_codes(weight: Tensor, *, bits: int, group_size: GroupSize = None) -> Tensor:
    """The level that :func:`round_to_nearest` rounds each weight to, counted from zero.

    Example:
        >>> integer_codes(torch.tensor([[0.1, -0.9, 1.0]]), bits=4)
        tensor([[ 1, -6,  7]], dtype=torch.int32)
    """
    return glue(_integer_blocks(weight, bits, group_size)[0], weight).int()


def codebook_codes(weight: Tensor, codebook: Codebook, *, block_size: int = 64) -> Tensor:
    """The level that :func:`round_to_codebook` rounds each weight to, counted from the lowest.

    Example:
        >>> codebook_codes(torch.tensor([0.1, -0.9, 2.0]), "nf4")
        tensor([ 8,  3, 15], dtype=torch.int32)
    """
    return glue(_codebook_blocks(weight, codebook, block_size)[0], weight)


def flipped_fraction(before: Tensor, after: Tensor, *, codes: Callable[[Tensor], Tensor]) -> Tensor:
    """Share of the weights whose code differs: how much of a weight change survives quantisation.

    If it is near 0, the quantised model equals the quantised original, and what was unlearned comes back. No forward pass is
    needed to find out.

    Args:
        before: Weights, for example of the original model, ``[out, ...]``.
        after: The same weights later, ``[out, ...]``.
        codes: From weights to their codes, such as :func:`integer_codes` or :func:`codebook_codes`.

    Returns:
        A scalar ``[]`` in [0, 1], float32; 0 for no weights.

    Example:
        >>> from functools import partial
        >>> before, after = torch.tensor([[0.3, 1.0]]), torch.tensor([[0.4, 1.0]])
        >>> flipped_fraction(before, after, codes=partial(integer_codes, bits=2))
        tensor(0.)
        >>> flipped_fraction(before, after, codes=partial(integer_codes, bits=8))
        tensor(0.5000)

    References:
        Zhang et al., `Catastrophic Failure of LLM Unlearning via Quantization <https://arxiv.org/abs/2410.16454>`_,
        2025, section 5, for why small changes are rounded away.
    """
    if before.shape != after.shape:
        raise ValueError(
            "`before` and `after` should be the same weights at two times, of one shape. "
            f"Found shapes {tuple(before.shape)} and {tuple(after.shape)}."
        )
    flipped = codes(before) != codes(after)
    return flipped.float().sum() / max(flipped.numel(), 1)


def _integer_blocks(weight: Tensor, bits: int, group_size: GroupSize) -> tuple[Tensor, Tensor]:
    if not 2 <= bits <= 16:
        raise ValueError(f"`bits` should be between 2 and 16. Found `bits = {bits}`.")
    blocks, absmax = cut(*grouped(weight, group_size))
    # A block of zeros has absmax 0. It is divided by 1 instead, which gives the codes 0.
    return (blocks / absmax.masked_fill(absmax == 0, 1) * largest_code(bits)).round(), absmax


def _codebook_blocks(weight: Tensor, codebook: Codebook, block_size: int) -> tuple[Tensor, Tensor]:
    if codebook not in _LEVELS:
        raise ValueError(
            f"`codebook` should be one of {', '.join(map(repr, _LEVELS))}. Found `codebook = {codebook!r}`."
        )
    if block_size < 1:
        raise ValueError(f"`block_size` should be positive. Found `block_size = {block_size}`.")
    blocks, absmax = cut(weight.reshape(1, -1), block_size)
    # Multiply by the reciprocal, as bitsandbytes does, instead of dividing: midway between two levels the last bit decides.
    # 1e-38 keeps the reciprocal finite for a block of zeros.
    scaled = blocks * absmax.clamp_min(1e-38).reciprocal()
    levels = levels_of(codebook, absmax)
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2, out_int32=True), absmax


def grouped(weight: Tensor, group_size: GroupSize) -> tuple[Tensor, int]:
    """``weight [out, ...]`` as rows in which every so many elements share a scale, and how many that are.

    Example:
        >>> [(rows.shape, size) for rows, size in (grouped(torch.ones(2, 3, 2), n) for n in (4, None, "tensor"))]
        [(torch.Size([2, 6]), 4), (torch.Size([2, 6]), 6), (torch.Size([1, 12]), 12)]
    """
    if isinstance(group_size, int) and group_size < 1:
        raise ValueError(f"`group_size` should be positive, or None for a scale per row. Found {group_size}.")
    rows = weight.reshape(1, -1) if group_size == "tensor" else torch.atleast_2d(weight).flatten(1)
    return rows, group_size if isinstance(group_size, int) else max(rows.shape[1], 1)


def largest_code(bits: int) -> int:
    """The highest integer code; the lowest is minus it."""
    return (1 << (bits - 1)) - 1


def levels_of(codebook: Codebook, like: Tensor) -> Tensor:
    """The levels of a codebook from the lowest, ``[16]``, in the dtype and on the device of ``like``."""
    return torch.tensor(_LEVELS[codebook], dtype=like.dtype, device=like.device)


def cut(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut ``rows [R, n]`` into ``[R, ceil(n / size), size]`` padded with zeros, at least float32; and their absmax."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    blocks = F.pad(rows, (0, -rows.shape[1] % size)).unflatten(1, (-(-rows.shape[1] // size), size))
    return blocks, blocks.abs().amax(-1, keepdim=True)


def glue(blocks: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`cut`."""
    return blocks.flatten(1)[:, : like.numel() // max(blocks.shape[0], 1)].reshape(like.shape)
