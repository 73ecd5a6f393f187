"""Buckets of a grid of few bits: all weights in one bucket are rounded to one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.functional.quantization import cut, glue, largest_code, levels_of


@dataclass(frozen=True)
class Grid:
    """Levels that weights are rounded to, in units of the largest weight of each group.

    Args:
        bits: As in :func:`~lightning_unlearn.functional.quantization.round_to_nearest`; 4 for a codebook.
        group_size: Weights that share a scale; ``None`` for all inputs of a channel, and for 64 with a codebook.
        codebook: ``"int"`` for evenly spaced levels, or ``"nf4"`` or ``"fp4"``.

    Example:
        >>> weight = torch.tensor([[0.1, -0.9, 1.0]])
        >>> grid = Grid(bits=2)
        >>> grid.levels(weight)
        tensor([-1.,  0.,  1.], dtype=torch.float64)
        >>> grid.codes(weight, grid.scales(weight))
        tensor([[1, 0, 2]])
    """

    bits: int = 4
    group_size: int | None = None
    codebook: Literal["int", "nf4", "fp4"] = "int"

    def levels(self, like: Tensor) -> Tensor:
        """From the lowest to the highest, ``[L]`` float64, on the device of ``like``."""
        if self.codebook != "int":
            # In the precision that weights are rounded in.
            dtype = torch.promote_types(like.dtype, torch.float32)
            return levels_of(self.codebook, like.new_empty(0, dtype=dtype)).double()
        top = largest_code(self.bits)
        return torch.arange(-top, top + 1, dtype=torch.float64, device=like.device) / top

    def scales(self, weight: Tensor) -> Tensor:
        """The largest absolute value of each weight's group, in the shape of ``weight``, ``[out, ...]``."""
        if self.codebook != "int":
            blocks, absmax = cut(weight.reshape(1, -1), self.group_size or 64)
        else:
            channels = torch.atleast_2d(weight).flatten(1)
            blocks, absmax = cut(channels, self.group_size or max(channels.shape[1], 1))
        return glue(absmax.expand_as(blocks), weight)

    def codes(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Which level each weight is rounded to if its group has the given scale, counted from the lowest; int64.

        With scales of ``weight`` itself these are the codes of :func:`~.quantization.integer_codes` (counted from zero
        there) and :func:`~.quantization.codebook_codes`, operation by operation: midway between two levels the last bit
        decides.
        """
        weight = weight.to(scales.dtype)
        if self.codebook != "int":
            levels = levels_of(self.codebook, scales)
            return torch.bucketize(weight * scales.clamp_min(1e-38).reciprocal(), (levels[1:] + levels[:-1]) / 2)
        top = largest_code(self.bits)
        return (weight / scales.masked_fill(scales == 0, 1) * top).round().clamp(-top, top).long() + top


@dataclass(frozen=True)
class Flips:
    """For each weight, its way into the next bucket in a given direction, on every one of several grids.

    Args:
        target: Where it is past its boundary on all of them by the margin, float64.
        jump: How far its rounded value moves then: the distance between the two levels, on the coarsest grid.
        possible: Whether there is a next level, the way to it leaves the scale of its group alone, and the weight is not
            the largest of a group, which is the scale.
    """

    target: Tensor
    jump: Tensor
    possible: Tensor


def flips(weight: Tensor, direction: Tensor, grids: Sequence[Grid], margin: float) -> Flips:
    r"""The way of each weight past the boundary of its bucket.

    .. math:: b = \tfrac{a}{2} (l_c + l_{c+s}), \quad J = a \, |l_{c+s} - l_c|, \quad \text{target} = b + s \, m J

    With several grids the farthest target counts.

    Args:
        weight: ``[out, ...]``, whose codes are to change.
        direction: Of its shape: positive for up, negative for down, 0 for neither.
        grids: One or several.
        margin: How far past the boundary, in units of the jump; below 0.5, which is the level itself.

    Example:
        >>> weight = torch.tensor([[0.6, 1.0, -0.2]])
        >>> found = flips(weight, torch.ones(1, 3), [Grid(bits=2)], margin=0.125)
        >>> found.target[0, 2].item(), found.possible.tolist()
        (0.625, [[False, False, True]])
    """
    sign = direction.sign().double()
    target = torch.full_like(sign, -torch.inf)
    jump, possible = torch.zeros_like(sign), (sign != 0) & ~pinned(weight, grids)
    for grid in grids:
        scales, levels = grid.scales(weight), grid.levels(weight)
        codes = grid.codes(weight, scales)
        after = codes + sign.long()
        here, there = levels[codes], levels[after.clamp(0, len(levels) - 1)]
        jump_here = scales * (there - here).abs()
        target = torch.maximum(target, sign * scales * (here + there) / 2 + margin * jump_here)
        jump = torch.maximum(jump, jump_here)
        possible &= (after >= 0) & (after < len(levels))
    possible &= target.abs() <= smallest_scale(weight, grids)
    return Flips(sign * target, jump, possible)


def settled(
    weight: Tensor, original: Tensor, chosen: Tensor, target: Tensor, grids: Sequence[Grid], margin: float
) -> Tensor:
    """New weights: those that are ``chosen`` are past their boundary, all others inside their own bucket, by the margin.

    Scales are those of ``original``: its largest weight of each group is put back, and no other exceeds it. So whoever
    rounds the new weights takes the same scales, and the codes are known exactly.

    Args:
        weight: As it is now, ``[out, ...]``.
        original: Whose grid it is.
        chosen: Which weights have to reach their target.
        target: Of :func:`flips` of ``original``. A weight that is past it already only stays inside its bucket.
        grids: As in :func:`flips`. Where buckets of two grids meet so narrowly that there is no room for the margins, a
            weight goes to the middle of what the buckets share.
        margin: As in :func:`flips`.

    Returns:
        A new tensor, float64.
    """
    limit = smallest_scale(original, grids)
    held = weight.double().clamp(-limit, limit)
    short = chosen & ((target - original) * (target - held) > 0)
    inside = _inside(held, original, grids, margin)
    return torch.where(pinned(original, grids), original.double(), torch.where(short, target, inside))


def pinned(weight: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Which weights are the largest of a group on some grid, and so its scale."""
    masks = [weight.abs() == grid.scales(weight) for grid in grids]
    return torch.stack(masks).any(0)


def smallest_scale(weight: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Of all groups that a weight belongs to, the smallest scale: up to there it changes none of them; float64."""
    return torch.stack([grid.scales(weight) for grid in grids]).amin(0).double()


def _inside(weight: Tensor, original: Tensor, grids: Sequence[Grid], margin: float) -> Tensor:
    """Each weight in its own bucket on every grid, by the margin if there is room."""
    ends = [_ends(weight, grid, grid.scales(original), m) for m in (margin, 0.0) for grid in grids]
    low, high = (torch.stack(each) for each in zip(*ends, strict=True))
    n = len(grids)
    tight_low, tight_high = low[:n].amax(0), high[:n].amin(0)
    middle = (low[n:].amax(0) + high[n:].amin(0)) / 2
    return torch.where(tight_low <= tight_high, weight.clamp(tight_low, tight_high), middle)


def _ends(weight: Tensor, grid: Grid, scales: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The two ends of each weight's bucket, moved inwards by ``margin`` of the distance to the next level."""
    levels, codes = grid.levels(weight), grid.codes(weight, scales)
    below, here, above = levels[(codes - 1).clamp_min(0)], levels[codes], levels[(codes + 1).clamp_max(len(levels) - 1)]
    # At the last level there is no next one: both are the same, and the end is the level itself.
    low = scales * ((below + here) / 2 + margin * (here - below))
    return low, scales * ((here + above) / 2 - margin * (above - here))
