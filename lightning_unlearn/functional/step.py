"""Inner products of a step with a few directions, and its correction, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_unlearn.functional.rows import Rows

# Elements of a block, by device: float64 copies of it should fit the CPU's cache; a GPU is faster with few large kernels.
_BLOCK = {"cpu": 1 << 17}
_LARGE_BLOCK = 1 << 22
# Elements of the blocks of all directions together, so that many directions do not take more memory.
_BLOCKS = {"cpu": 1 << 19}
_LARGE_BLOCKS = 1 << 25


@dataclass(frozen=True)
class StepProducts:
    r"""Inner products of ``k`` directions and a step. The sum over all parts of a vector gives those of the whole.

    Args:
        gramian: Products of the first ``n`` directions with all of them, in the metric, :math:`G^\top M^{-1} G`,
            ``[..., n, k]`` float64.
        along: Change of each loss by the step, to first order, :math:`G^\top d`, ``[..., k]`` float64.
        squares: Squared Euclidean lengths of the first ``n`` directions and of the step, ``[..., n + 1]`` float64.
    """

    gramian: Tensor
    along: Tensor
    squares: Tensor

    @property
    def packed(self) -> Tensor:
        """All products in one tensor, ``[..., n + 2, k + 1]``, so that one collective adds them up."""
        n, k = self.gramian.shape[-2:]
        out = self.squares.new_zeros(*self.squares.shape[:-1], n + 2, k + 1)
        out[..., :n, :k], out[..., n, :k], out[..., n + 1, : n + 1] = self.gramian, self.along, self.squares
        return out

    @classmethod
    def unpacked(cls, packed: Tensor) -> StepProducts:
        """The inverse of :attr:`packed`."""
        n, k = packed.shape[-2] - 2, packed.shape[-1] - 1
        return cls(packed[..., :n, :k], packed[..., n, :k], packed[..., n + 1, : n + 1])

    def completed(self, gramian: Tensor, squares: Tensor) -> StepProducts:
        """Completed by known products of the other directions, ``[..., k - n, k - n]`` and ``[..., k - n]``.

        Example:
            >>> from lightning_unlearn.functional.rows import StoredRows
            >>> rows = StoredRows([torch.ones(2), torch.tensor([0.0, 2.0])])
            >>> whole = step_products(torch.ones(2), torch.zeros(2), rows)
            >>> part = step_products(torch.ones(2), torch.zeros(2), rows, fresh=1)
            >>> torch.equal(part.completed(whole.gramian[1:, 1:], whole.squares[1:2]).gramian, whole.gramian)
            True
        """
        n = self.gramian.shape[-2]
        # The Gramian is symmetric: the block below the new rows is the transpose of the one beside them.
        beside = torch.cat([self.gramian[..., n:].mT, gramian], -1)
        squares = torch.cat([self.squares[..., :n], squares, self.squares[..., n:]], -1)
        return StepProducts(torch.cat([self.gramian, beside], -2), self.along, squares)


def direction_products(directions: Rows, like: Tensor) -> Tensor:
    """Inner products of ``directions`` among themselves, ``[k, k]`` float64.

    Args:
        directions: ``k`` gradients of one shape.
        like: A tensor of that shape, on the device that computes.

    Example:
        >>> from lightning_unlearn.functional.rows import StoredRows
        >>> direction_products(StoredRows([torch.tensor([1.0, 2.0]), torch.ones(2), None]), torch.ones(2)).tolist()
        [[5.0, 3.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    k = len(directions)
    products = torch.zeros(k, k, dtype=torch.float64, device=like.device)
    for _, rows, _ in _blocks(like.detach().reshape(-1), directions, None):
        products += rows[:k] @ rows[:k].T
    return products


def step_products(
    after: Tensor,
    before: Tensor,
    directions: Rows,
    inverse_metric: Tensor | None = None,
    fresh: int | None = None,
) -> StepProducts:
    """Inner products of ``directions`` and the step from ``before`` to ``after``, in float64.

    Args:
        after: One parameter, or its local shard, of any shape.
        before: The same, before the step.
        directions: ``k`` gradients of the same shape. They may be on another device, in low precision, or not held at all.
        inverse_metric: Diagonal of :math:`M^{-1}`, of the same shape or ``[]``. Defaults to the identity.
        fresh: Number of leading directions whose products are computed; those among the others are known. Defaults to all.

    Returns:
        The products of this tensor.

    Example:
        >>> from lightning_unlearn.functional.rows import StoredRows
        >>> found = step_products(torch.tensor([1.0, 2.0]), torch.zeros(2), StoredRows([torch.tensor([0.0, 3.0])]))
        >>> found.gramian.tolist(), found.along.tolist(), found.squares.tolist()
        ([[9.0]], [6.0], [9.0, 5.0])
    """
    k = len(directions)
    n = k if fresh is None else fresh
    wanted = [*range(n), k]
    products = torch.zeros(n + 1, k + 1, dtype=torch.float64, device=after.device)
    gramian = products[:n, :k]
    if inverse_metric is not None:
        gramian = gramian.clone()  # without a metric it is a view of `products`; with one, both are needed
    flat, old = after.detach().reshape(-1), before.detach().reshape(-1)
    for here, rows, inverse in _blocks(flat, directions, inverse_metric):
        torch.sub(flat[here], old[here], out=rows[k])  # the step, in the extra row: one product then gives everything
        # Few rows are multiplied faster one by one.
        products += rows @ rows.T if n == k else torch.stack([torch.mv(rows, rows[i]) for i in wanted])
        if inverse is not None:
            gramian += rows[:n] @ (rows[:k] * inverse).T
    return StepProducts(gramian, products[n, :k], products[range(n + 1), wanted])


def correct_step_(
    after: Tensor, before: Tensor, directions: Rows, multipliers: Tensor, inverse_metric: Tensor | None = None
) -> Tensor:
    r"""Subtract :math:`M^{-1} G \lambda` from ``after``, in place, and measure the new step.

    The sum is computed in float64, and rounded once when it is written.

    Returns:
        :math:`G^\top d'` of the step :math:`d'` from ``before`` to the new ``after``, and its squared length at the end,
        ``[k + 1]`` float64.

    Example:
        >>> from lightning_unlearn.functional.rows import StoredRows
        >>> weight = torch.tensor([1.0, 2.0])
        >>> rows = StoredRows([torch.tensor([0.0, 3.0])])
        >>> along = correct_step_(weight, torch.zeros(2), rows, torch.tensor([0.5]).double())
        >>> weight, along
        (tensor([1.0000, 0.5000]), tensor([1.5000, 1.2500], dtype=torch.float64))
    """
    k = len(directions)
    products = torch.zeros(k + 1, dtype=torch.float64, device=after.device)
    alone = None if inverse_metric is not None else directions.only_one(multipliers)
    if alone is not None and abs(alone[1]) > torch.finfo(after.dtype).max:  # the row is as short
        alone = None
    if alone is not None:  # no sum, so nothing to gain from float64
        row, multiplier = alone
        after.sub_(row.to(after), alpha=multiplier)
    flat, old = after.detach().reshape(-1), before.detach().reshape(-1)
    for here, rows, inverse in _blocks(flat, directions, inverse_metric):
        if alone is None:
            torch.mv(rows[:k].T, multipliers, out=rows[k])
            if inverse is not None:
                rows[k] *= inverse
            torch.sub(flat[here], rows[k], out=flat[here])
        # From the rounded weights: what is measured is the step that is applied.
        torch.sub(flat[here], old[here], out=rows[k])
        products += torch.mv(rows, rows[k])
    if flat.data_ptr() != after.data_ptr():  # a copy, since the tensor is not contiguous
        after.copy_(flat.view_as(after))
    return products


Block = tuple[slice, Tensor, Tensor | None]


def _blocks(flat: Tensor, directions: Rows, inverse_metric: Tensor | None) -> Iterator[Block]:
    """For each block: its slice, the directions in float64 with one extra row to work in, and the metric.

    All blocks share one buffer, which the next block overwrites.
    """
    inverse = None if inverse_metric is None else inverse_metric.reshape(-1).expand(flat.shape)
    size = _block_size(directions, flat.device.type)
    buffer = torch.empty(len(directions) + 1, min(size, len(flat)), dtype=torch.float64, device=flat.device)
    for start in range(0, len(flat), size):
        here = slice(start, min(start + size, len(flat)))
        block = buffer[:, : here.stop - start]
        directions.fill_(block[:-1], here)
        yield here, block, None if inverse is None else inverse[here].double()


def _block_size(rows: Rows, device: str) -> int:
    together = _BLOCKS.get(device, _LARGE_BLOCKS) // (len(rows) + 1)
    size = min(_BLOCK.get(device, _LARGE_BLOCK), together)
    return max(size // rows.width, 1) * rows.width
