"""Grids of few bits: their levels, scales and buckets. All weights in one bucket are rounded to one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.functional.quantization import GroupSize, cut, glue, grouped, largest_code, levels_of


@dataclass(frozen=True)
class Grid:
    """Levels that weights are rounded to, in units of the largest weight of each group.

    Args:
        bits: As in :func:`~lightning_unlearn.functional.quantization.round_to_nearest`; 4 for a codebook.
        group_size: Weights that share a scale; ``None`` for all inputs of a channel, and for 64 with a codebook;
            ``"tensor"`` for all weights.
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
    group_size: GroupSize = None
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
        size = 64 if self.codebook != "int" and self.group_size is None else self.group_size
        rows, size = grouped(weight if self.codebook == "int" else weight.reshape(1, -1), size)
        blocks, absmax = cut(rows, size)
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
            scaled = (weight * scales.clamp_min(1e-38).reciprocal()).contiguous()
            return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
        top = largest_code(self.bits)
        return (weight / scales.masked_fill(scales == 0, 1) * top).round().clamp(-top, top).long() + top


def pinned(weight: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Which weights are the largest of a group on some grid, and so its scale."""
    masks = [weight.abs() == grid.scales(weight) for grid in grids]
    return torch.stack(masks).any(0)


def smallest_scale(weight: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Of all groups that a weight belongs to, the smallest scale: up to there it changes none of them; float64."""
    return torch.stack([grid.scales(weight) for grid in grids]).amin(0).double()


def ends(weight: Tensor, grid: Grid, scales: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The two ends of each weight's bucket, moved inwards by ``margin`` of the distance to the next level."""
    levels, codes = grid.levels(weight), grid.codes(weight, scales)
    below, here, above = levels[(codes - 1).clamp_min(0)], levels[codes], levels[(codes + 1).clamp_max(len(levels) - 1)]
    # At the last level there is no next one: both are the same, and the end is the level itself.
    low = scales * ((below + here) / 2 + margin * (here - below))
    return low, scales * ((here + above) / 2 - margin * (above - here))


def widths(weight: Tensor, grid: Grid) -> Tensor:
    """The width of each weight's bucket, float64; 0 for the largest of a group, which is rounded to itself.

    Of the buckets of the first and last level only the inner half is inhabited. They count in full, as if they went on
    beyond the level: then rounding moves an evenly spread weight by the root of a twelfth of the width in every bucket.

    Example:
        >>> widths(torch.tensor([[0.1, -0.9, 1.0]]), Grid(bits=2))
        tensor([[1., 1., 0.]], dtype=torch.float64)
    """
    scales = grid.scales(weight)
    low, high = ends(weight, grid, scales, 0.0)
    codes, last = grid.codes(weight, scales), len(grid.levels(weight)) - 1
    halved = (codes == 0) | (codes == last)
    return ((high - low) * (1 + halved.double())).masked_fill(pinned(weight, [grid]), 0)


def expected_flips(before: Tensor, after: Tensor, grid: Grid) -> Tensor:
    r"""The share of codes that a change flips if weights are spread evenly inside their buckets, ``[]`` float64.

    .. math:: \mathrm{mean} \; \min(1, |d| / B)

    with the change :math:`d` and the width :math:`B` of the bucket. Far more flips than that come from scales that moved,
    far fewer from weights that lie on the grid already, where small changes are erased exactly.

    Example:
        >>> expected_flips(torch.tensor([[0.1, -0.9, 1.0]]), torch.tensor([[0.4, -0.9, 1.0]]), Grid(bits=2))
        tensor(0.1000, dtype=torch.float64)
    """
    width = widths(before, grid)
    share = (after.double() - before).abs() / width.masked_fill(width == 0, torch.inf)
    return share.clamp_max(1).sum() / max(share.numel(), 1)
