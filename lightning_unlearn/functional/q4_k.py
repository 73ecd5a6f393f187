"""The 4-bit blocks of GGUF's Q4_K: codes with a scale and a minimum for every 32 weights, which are in 6 bits themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_unlearn.functional.by_rows import piece_for

_TOP = 15  # the highest code of four bits
_SIX_BITS = 63
_TRIES = 21


def q4_k_bytes(rows: Tensor) -> Tensor:
    r"""Blocks of 256 weights as GGUF stores them in Q4_K: 144 bytes each, 4.5 bits a weight.

    .. math:: w \approx d \, s_b \, q - d_{\min} \, m_b, \qquad q \in \{0, \dots, 15\}, \quad s_b, m_b \in \{0, \dots, 63\}

    with two float16 scales for each block, and :math:`s_b, m_b` for each of its eight parts. Scale and minimum of a part
    are those of least weighted squared error among 21 roundings of it, each fitted anew; large weights count for more.

    Args:
        rows: ``[..., 256 n]``.

    Returns:
        ``[..., 144 n]`` uint8: both scales, twelve bytes of six bits each, and two codes a byte.

    Example:
        >>> q4_k_bytes(torch.linspace(-1, 1, 512).view(2, 256)).shape
        torch.Size([2, 144])

    References:
        The format and the choice of scales are those of ``quantize_row_q4_K_ref`` in `ggml
        <https://github.com/ggml-org/llama.cpp>`_, without an importance matrix.
    """
    parts = rows.detach().float().reshape(-1, 8, 32)
    # A few at a time, which fit into a processor's cache: four times as fast.
    at_once = piece_for(parts) // 128
    return torch.cat([_packed(some) for some in parts.split(at_once)]).view(*rows.shape[:-1], -1)


def _packed(parts: Tensor) -> Tensor:
    """Bytes of blocks, ``[n, 144]``."""
    scales, minima = _fitted(parts)
    d, d_min = (each.amax(1, keepdim=True) for each in (scales, minima))
    s, m = (_six_bits(each, top) for each, top in ((scales, d), (minima, d_min)))
    d, d_min = ((each / _SIX_BITS).half() for each in (d, d_min))
    steps, offsets = (each.float() * code for each, code in ((d, s), (d_min, m)))
    codes = ((parts + offsets[..., None]) / steps.masked_fill(steps == 0, torch.inf)[..., None]).round().clamp(0, _TOP)
    halves = [each.view(torch.uint8) for each in (d, d_min)]
    return torch.cat([*halves, _packed_scales(s.byte(), m.byte()), _packed_codes(codes.byte())], 1)


def _fitted(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minus the minimum of each part, ``[n, 8]``: codes times scale, less the minimum, are near its weights."""
    importance = parts.square().mean(-1, keepdim=True).sqrt() + parts.abs()
    low = parts.amin(-1, keepdim=True).clamp_max(0)
    width = parts.amax(-1, keepdim=True) - low
    safe = width.masked_fill(width == 0, 1)
    scale, minimum = safe / _TOP, low
    error = _error(parts, (_codes(parts, low, _TOP / safe)), scale, minimum, importance)
    for attempt in range(_TRIES):
        codes = _codes(parts, low, (_TOP - 1 + 0.1 * attempt) / safe)
        new_scale, new_minimum = _least_squares(parts, codes, importance)
        new_error = _error(parts, codes, new_scale, new_minimum, importance)
        better = new_error < error  # never where it is NaN: all codes are the same
        scale, minimum = torch.where(better, new_scale, scale), torch.where(better, new_minimum, minimum)
        error = torch.where(better, new_error, error)
    flat = width == 0
    return scale.masked_fill(flat, 0).squeeze(-1), -torch.where(flat, low, minimum).squeeze(-1)


def _codes(parts: Tensor, low: Tensor, inverse: Tensor) -> Tensor:
    return ((parts - low) * inverse).round().clamp(0, _TOP)


def _error(parts: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor, importance: Tensor) -> Tensor:
    return (importance * (scale * codes + minimum - parts).square()).sum(-1, keepdim=True)


def _least_squares(parts: Tensor, codes: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """The line through codes and weights, with a minimum that is not positive."""
    weighted = importance * codes
    summed = (importance, importance * parts, weighted, weighted * codes, weighted * parts)
    w, x, q, qq, xq = (each.sum(-1, keepdim=True) for each in summed)
    determinant = w * qq - q * q
    determinant = determinant.masked_fill(determinant <= 0, torch.nan)
    scale, minimum = (w * xq - x * q) / determinant, (qq * x - q * xq) / determinant
    above = minimum > 0
    return torch.where(above, xq / qq, scale), minimum.masked_fill(above, 0)


def _six_bits(values: Tensor, top: Tensor) -> Tensor:
    return (values * (_SIX_BITS / top.masked_fill(top == 0, torch.inf))).round().clamp_max(_SIX_BITS)


def _packed_scales(s: Tensor, m: Tensor) -> Tensor:
    """Eight scales and eight minima of six bits in twelve bytes."""
    first_s, last_s, first_m, last_m = s[:, :4], s[:, 4:], m[:, :4], m[:, 4:]
    upper = [first | (last >> 4) << 6 for first, last in ((first_s, last_s), (first_m, last_m))]
    return torch.cat([*upper, (last_s & 15) | (last_m & 15) << 4], 1)


def _packed_codes(codes: Tensor) -> Tensor:
    pairs = codes.view(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).flatten(1)
