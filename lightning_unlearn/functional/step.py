"""A step of the parameters against a few directions, tensor by tensor: what there is to know, and how to correct it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Float64 copies of one block should stay in a processor's cache; a graphics card wants few large kernels.
_BLOCK = {"cpu": 1 << 16}
_LARGE_BLOCK = 1 << 22


@dataclass(frozen=True)
class StepProducts:
    r"""Inner products of ``k`` directions and a step; those of the parts of a vector add up to those of the whole.

    Args:
        gramian: Of the directions, in the metric, :math:`G^\top M^{-1} G`, ``[..., k, k]`` float64.
        along: Change of each loss by the step, to first order, :math:`G^\top d`, ``[..., k]`` float64.
        squares: Squared Euclidean lengths of the directions and of the step, ``[..., k + 1]`` float64.
    """

    gramian: Tensor
    along: Tensor
    squares: Tensor

    @property
    def packed(self) -> Tensor:
        """All of it in one tensor, ``[..., k + 2, k + 1]``, to be added up."""
        k = self.along.shape[-1]
        out = self.squares.new_zeros(*self.squares.shape[:-1], k + 2, k + 1)
        out[..., :k, :k], out[..., k, :k], out[..., k + 1, :] = self.gramian, self.along, self.squares
        return out

    @classmethod
    def unpacked(cls, packed: Tensor) -> StepProducts:
        """The inverse of :attr:`packed`."""
        k = packed.shape[-1] - 1
        return cls(packed[..., :k, :k], packed[..., k, :k], packed[..., k + 1, :])


def step_products(
    after: Tensor, before: Tensor, directions: Sequence[Tensor | None], inverse_metric: Tensor | None = None
) -> StepProducts:
    """Inner products of ``directions`` and the step from ``before`` to ``after``, in float64.

    Args:
        after: One parameter, or the part of it that is here, of any shape.
        before: The same, before the step.
        directions: ``k`` gradients of the same shape; ``None`` counts as zero. They may be elsewhere, and in low precision.
        inverse_metric: Diagonal of :math:`M^{-1}`, of the same shape or none. Defaults to the identity.

    Returns:
        The products of this one tensor.

    Example:
        >>> found = step_products(torch.tensor([1.0, 2.0]), torch.zeros(2), [torch.tensor([0.0, 3.0])])
        >>> found.gramian.tolist(), found.along.tolist(), found.squares.tolist()
        ([[9.0]], [6.0], [9.0, 5.0])
    """
    k = len(directions)
    gramian = torch.zeros(k, k, dtype=torch.float64, device=after.device)
    along = gramian.new_zeros(k)
    squares = gramian.new_zeros(k + 1)
    for rows, new, old, inverse in _blocks(after, before, directions, inverse_metric):
        step = new - old
        gramian += rows @ (rows if inverse is None else rows * inverse).T
        along += rows @ step
        squares[:k] += rows.square().sum(1)
        squares[k] += step @ step
    return StepProducts(gramian, along, squares)


def correct_step_(
    after: Tensor, directions: Sequence[Tensor | None], multipliers: Tensor, inverse_metric: Tensor | None = None
) -> None:
    r"""Take :math:`M^{-1} G \lambda` out of ``after``, in place; summed up in float64 and rounded once.

    Example:
        >>> weight = torch.tensor([1.0, 2.0])
        >>> correct_step_(weight, [torch.tensor([0.0, 3.0])], torch.tensor([0.5], dtype=torch.float64))
        >>> weight
        tensor([1.0000, 0.5000])
    """
    flat = after.detach().reshape(-1)
    start = 0
    for rows, new, _, inverse in _blocks(after, after, directions, inverse_metric):
        taken_out = multipliers @ rows
        new -= taken_out if inverse is None else taken_out * inverse
        flat[start : start + len(new)] = new.to(flat.dtype)
        start += len(new)
    if flat.data_ptr() != after.data_ptr():  # a copy, since the tensor is not contiguous
        after.copy_(flat.view_as(after))


Block = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _blocks(
    after: Tensor, before: Tensor, directions: Sequence[Tensor | None], inverse_metric: Tensor | None
) -> Iterator[Block]:
    flat, old = after.detach().reshape(-1), before.detach().reshape(-1)
    rows = [None if t is None else t.reshape(-1) for t in directions]
    inverse = None if inverse_metric is None else inverse_metric.expand(after.shape).reshape(-1)
    size = _BLOCK.get(flat.device.type, _LARGE_BLOCK)
    for start in range(0, len(flat), size):
        here = slice(start, start + size)
        new = flat[here].double()
        block = new.new_zeros(len(rows), len(new))
        for place, row in zip(block, rows, strict=True):
            if row is not None:
                place.copy_(row[here])
        yield block, new, old[here].double(), None if inverse is None else inverse[here].double()
