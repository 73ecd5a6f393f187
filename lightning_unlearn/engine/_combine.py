from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_unlearn.engine._products import Row


@torch.no_grad()
def combine_(params: Sequence[Tensor], rows: Sequence[Row], weights: Sequence[float]) -> None:
    """Write the weighted sum of ``rows`` into ``p.grad``, overwriting their tensors. The last row may be ``p.grad`` itself.

    A parameter without a gradient in any row keeps none, so weight decay does not touch parameters that were not used.
    A row whose weight is beyond what its numbers can be multiplied by adds nothing: it is shorter than the smallest normal
    number, and its direction, to which some projector gives a length, is rounding error.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([1.0, 1.0])
        >>> combine_([p], [[torch.tensor([0.0, 2.0])], [p.grad]], [0.5, 1.0])
        >>> p.grad
        tensor([1., 2.])
    """
    for i, param in enumerate(params):
        # Everything is added to the last row: if that is `p.grad`, nothing is copied, and it stays the same tensor, which
        # under DDP can be a view into a bucket of the reducer.
        *others, last = [(row[i], _factor(weight, row[i])) for row, weight in zip(rows, weights, strict=True)]
        total, weight = last
        if total is not None and weight != 1:
            total.mul_(weight)
        for tensor, weight in others:
            if tensor is None:
                continue
            total = tensor.mul_(weight) if total is None else total.add_(tensor, alpha=weight)
        param.grad = total


def _factor(weight: float, tensor: Tensor | None) -> float:
    """The weight, or 0 where torch refuses to multiply by it; one that is not finite stays seen."""
    return 0.0 if tensor is not None and torch.finfo(tensor.dtype).max < abs(weight) < math.inf else weight
