"""Moving weights past the boundaries of their buckets: all weights in one bucket are rounded to one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_unlearn.functional.grids import Grid, ends, pinned, smallest_scale


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


def _inside(weight: Tensor, original: Tensor, grids: Sequence[Grid], margin: float) -> Tensor:
    """Each weight in its own bucket on every grid, by the margin if there is room."""
    found = [ends(weight, grid, grid.scales(original), m) for m in (margin, 0.0) for grid in grids]
    low, high = (torch.stack(each) for each in zip(*found, strict=True))
    n = len(grids)
    tight_low, tight_high = low[:n].amax(0), high[:n].amin(0)
    middle = (low[n:].amax(0) + high[n:].amin(0)) / 2
    return torch.where(tight_low <= tight_high, weight.clamp(tight_low, tight_high), middle)
