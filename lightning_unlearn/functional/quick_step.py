"""Inner products of a step and its correction in one pass of float32 operations, where directions are told apart easily."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_unlearn.functional.gramian import reciprocal_lengths
from lightning_unlearn.functional.rows import Rows
from lightning_unlearn.functional.step import StepProducts

# Elements of a block, by device: on the CPU one row of it should fit the cache, and a sum of so many products be exact to
# 1e-6; smaller ones wait for threads. A GPU is faster with few large kernels, and adds up in a tree.
_BLOCK = {"cpu": 1 << 17}
_LARGE_BLOCK = 1 << 23
# Solving for multipliers enlarges errors by one over the root of the smallest eigenvalue. Below this one, products are to
# be taken in float64.
_SMALLEST_EIGENVALUE = 0.05
_SHORTEST, _LONGEST = (
    1e-26,
    1e30,
)  # squared lengths: of far shorter or longer vectors, elements cannot be squared in float32


def float32_suffices(products: StepProducts) -> bool:
    """Whether products by :func:`quick_products` are good enough to correct a step by.

    They are not where two directions are nearly parallel, nor where lengths are near what float32 can square.

    Args:
        products: Of all directions with each other, and with the step.

    Example:
        >>> along, squares = torch.zeros(2), torch.tensor([1.0, 4.0, 1.0])
        >>> [float32_suffices(StepProducts(torch.tensor([[1.0, x], [x, 4.0]]), along, squares)) for x in (1.0, 1.99)]
        [True, False]
    """
    in_range = (products.squares > _SHORTEST) & (products.squares < _LONGEST)
    return bool(in_range.all()) and not nearly_parallel(products.gramian)


def nearly_parallel(gramian: Tensor) -> bool:
    """Whether some of ``k`` vectors can hardly be told apart.

    Args:
        gramian: Their inner products, ``[..., k, k]`` float64.

    Example:
        >>> nearly_parallel(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        False
    """
    if gramian.shape[-1] < 2:
        return False
    scale = reciprocal_lengths(gramian)
    normalised = scale[..., :, None] * gramian * scale[..., None, :]
    return bool((torch.linalg.eigvalsh(normalised)[..., 0] < _SMALLEST_EIGENVALUE).any())


def quick_products(after: Tensor, before: Tensor, directions: Rows, fresh: int) -> StepProducts:
    """:func:`step_products` without a metric, by float32 dot products of blocks, added up in float64.

    Args:
        after: One parameter, or its local shard, of any shape; not float64.
        before: The same, before the step.
        directions: ``k`` gradients of the same shape. They are not copied where they are float32.
        fresh: Number of leading directions whose products are computed: a few.

    Example:
        >>> from lightning_unlearn.functional.rows import StoredRows
        >>> found = quick_products(torch.tensor([1.0, 2.0]), torch.zeros(2), StoredRows([torch.tensor([0.0, 3.0])]), fresh=1)
        >>> found.gramian.tolist(), found.along.tolist(), found.squares.tolist()
        ([[9.0]], [6.0], [9.0, 5.0])
    """
    k, flat, old = len(directions), after.detach().reshape(-1), before.detach().reshape(-1)
    products = torch.zeros(fresh + 1, k + 1, dtype=torch.float64, device=after.device)
    for here, rows, step, spare in _blocks(flat, directions):
        torch.sub(flat[here], old[here], out=step)
        every = [*rows, step]
        dots: dict[tuple[int, int], Tensor] = {}
        for i in (*range(fresh), k):
            for j in range(k + 1):
                if (known := dots.get((j, i))) is None:
                    known = _square(every[i], spare) if i == j else torch.dot(every[i], every[j])
                dots[i, j] = known
        products += torch.stack(list(dots.values())).view(fresh + 1, k + 1)
    return StepProducts(products[:fresh, :k], products[fresh, :k], products[range(fresh + 1), [*range(fresh), k]])


def quick_correct_(after: Tensor, before: Tensor, directions: Rows, multipliers: Tensor) -> Tensor:
    r"""Subtract :math:`G \lambda` from ``after``, in place, and measure the new step, block by block.

    The sum is computed in float32, and rounded once when it is written. Its error is as small beside the correction as that
    of a float32 weight is beside the weight.

    Returns:
        As :func:`correct_step_`: :math:`G^\top d'`, and the squared length of :math:`d'` at the end, ``[k + 1]`` float64.

    Example:
        >>> from lightning_unlearn.functional.rows import StoredRows
        >>> weight, rows = torch.tensor([1.0, 2.0]), StoredRows([torch.tensor([0.0, 3.0])])
        >>> quick_correct_(weight, torch.zeros(2), rows, torch.tensor([0.5]).double()), weight
        (tensor([1.5000, 1.2500], dtype=torch.float64), tensor([1.0000, 0.5000]))
    """
    k, flat, old = len(directions), after.detach().reshape(-1), before.detach().reshape(-1)
    at_work = [(i, factor) for i, factor in enumerate(multipliers.tolist()) if factor]
    products = torch.zeros(k + 1, dtype=torch.float64, device=after.device)
    for here, rows, total, spare in _blocks(flat, directions):
        if len(at_work) == 1:  # no sum to be rounded before it is written
            (only, factor), *_ = at_work
            flat[here].sub_(rows[only], alpha=factor)
        else:
            total.zero_()
            for i, factor in at_work:
                total.add_(rows[i], alpha=factor)
            flat[here].sub_(total)
        # From the rounded weights: what is measured is the step that is applied.
        step = torch.sub(flat[here], old[here], out=total)
        products += torch.stack([*(torch.dot(row, step) for row in rows), _square(step, spare)])
    if flat.data_ptr() != after.data_ptr():  # a copy, since the tensor is not contiguous
        after.copy_(flat.view_as(after))
    return products


def _square(vector: Tensor, spare: Tensor) -> Tensor:
    """Its squared length. A sum adds up in pairs; a dot product of equal signs would be rounded the same way all along."""
    return torch.mul(vector, vector, out=spare).sum()


def _blocks(flat: Tensor, directions: Rows) -> Iterator[tuple[slice, list[Tensor], Tensor, Tensor]]:
    """For each block its slice, its part of the directions in float32, and two vectors to work in.

    All blocks share their buffers, which the next block overwrites.
    """
    size = max(_BLOCK.get(flat.device.type, _LARGE_BLOCK) // directions.width, 1) * directions.width
    size = min(size, len(flat))
    vectors = torch.empty(2, size, dtype=torch.float32, device=flat.device)
    room: Tensor | None = None  # for directions that are not held in float32
    for start in range(0, len(flat), size or 1):
        here = slice(start, min(start + size, len(flat)))
        rows = directions.views(here, vectors)
        if rows is None:
            room = vectors.new_empty(len(directions), size) if room is None else room
            directions.fill_(block := room[:, : here.stop - start], here)
            rows = list(block.unbind())
        step, spare = vectors[:, : here.stop - start].unbind()
        yield here, rows, step, spare
