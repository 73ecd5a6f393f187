"""A step of the parameters against a few directions, tensor by tensor: what there is to know, and how to correct it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_unlearn.functional.rows import Rows, StoredRows

# Float64 copies of one block should stay in a processor's cache; a graphics card wants few large kernels.
_BLOCK = {"cpu": 1 << 16}
_LARGE_BLOCK = 1 << 22
# However many directions there are, their blocks together take no more than this, and one width each.
_BLOCKS = {"cpu": 1 << 20}
_LARGE_BLOCKS = 1 << 25

Directions = Sequence[Tensor | None] | Rows
"""Gradients by one parameter: tensors of its shape, where ``None`` counts as zero, or what writes them out."""


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
    after: Tensor, before: Tensor, directions: Directions, inverse_metric: Tensor | None = None
) -> StepProducts:
    """Inner products of ``directions`` and the step from ``before`` to ``after``, in float64.

    Args:
        after: One parameter, or the part of it that is here, of any shape.
        before: The same, before the step.
        directions: ``k`` gradients of the same shape; ``None`` counts as zero. They may be elsewhere, and in low precision;
            or not be held at all, and written out block by block.
        inverse_metric: Diagonal of :math:`M^{-1}`, of the same shape or none. Defaults to the identity.

    Returns:
        The products of this one tensor.

    Example:
        >>> found = step_products(torch.tensor([1.0, 2.0]), torch.zeros(2), [torch.tensor([0.0, 3.0])])
        >>> found.gramian.tolist(), found.along.tolist(), found.squares.tolist()
        ([[9.0]], [6.0], [9.0, 5.0])
    """
    k = len(directions)
    products = torch.zeros(k + 1, k + 1, dtype=torch.float64, device=after.device)
    gramian = products[:k, :k]
    squares = products.diagonal()
    if inverse_metric is not None:
        gramian = gramian.clone()
    flat, old = after.detach().reshape(-1), before.detach().reshape(-1)
    for here, rows, inverse in _blocks(flat, directions, inverse_metric):
        torch.sub(flat[here], old[here], out=rows[k])
        products += rows @ rows.T
        if inverse is not None:
            gramian += rows[:k] @ (rows[:k] * inverse).T
    return StepProducts(gramian, products[k, :k], squares)


def correct_step_(
    after: Tensor, directions: Directions, multipliers: Tensor, inverse_metric: Tensor | None = None
) -> None:
    r"""Take :math:`M^{-1} G \lambda` out of ``after``, in place; a sum is taken in float64 and rounded once.

    Example:
        >>> weight = torch.tensor([1.0, 2.0])
        >>> correct_step_(weight, [torch.tensor([0.0, 3.0])], torch.tensor([0.5], dtype=torch.float64))
        >>> weight
        tensor([1.0000, 0.5000])
    """
    k = len(directions)
    held = () if isinstance(directions, Rows) else zip(directions, multipliers.tolist(), strict=True)
    at_work = [(row, m) for row, m in held if row is not None and m]
    if len(at_work) == 1 and inverse_metric is None:
        row, multiplier = at_work[0]
        after.sub_(row.to(after), alpha=multiplier)  # no sum, so nothing to gain from float64
        return
    flat = after.detach().reshape(-1)
    for here, rows, inverse in _blocks(flat, directions, inverse_metric):
        torch.mv(rows[:k].T, multipliers, out=rows[k])
        if inverse is not None:
            rows[k] *= inverse
        flat[here] = (flat[here].double() - rows[k]).to(flat.dtype)
    if flat.data_ptr() != after.data_ptr():  # a copy, since the tensor is not contiguous
        after.copy_(flat.view_as(after))


Block = tuple[slice, Tensor, Tensor | None]


def _blocks(flat: Tensor, directions: Directions, inverse_metric: Tensor | None) -> Iterator[Block]:
    """Where, the directions there in float64 and one more row to work in, and the metric there."""
    rows = directions if isinstance(directions, Rows) else StoredRows(directions)
    inverse = None if inverse_metric is None else inverse_metric.reshape(-1).expand(flat.shape)
    size = _block_size(rows, flat.device.type)
    buffer = torch.zeros(len(rows) + 1, min(size, len(flat)), dtype=torch.float64, device=flat.device)
    for start in range(0, len(flat), size):
        here = slice(start, min(start + size, len(flat)))
        block = buffer[:, : here.stop - start]
        rows.fill_(block[:-1], here)
        yield here, block, None if inverse is None else inverse[here].double()


def _block_size(rows: Rows, device: str) -> int:
    together = _BLOCKS.get(device, _LARGE_BLOCKS) // (len(rows) + 1)
    size = min(_BLOCK.get(device, _LARGE_BLOCK), together)
    return max(size // rows.width, 1) * rows.width
