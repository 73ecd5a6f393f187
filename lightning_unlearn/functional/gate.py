"""Undoing a step where it leads uphill, coordinate by coordinate."""

import torch
from torch import Tensor


def close_uphill_(weights: Tensor, before: Tensor, gradient: Tensor, threshold: float = 0.0) -> Tensor:
    r"""Set weights back, in place, where their step raises a loss to first order.

    .. math:: w_i \leftarrow w^-_i \quad \text{where} \quad (w_i - w^-_i) \, g_i > 0 \text{ and } |g_i| \ge t

    Where the gradient is zero, every step is free.

    Args:
        weights: After the step.
        before: Before the step.
        gradient: Of the loss.
        threshold: Smaller gradients count as zero.

    Returns:
        ``[6]`` float64, for all coordinates together: how many were set back, and how many had moved; the squared length
        of the step before and after; the change of the loss, to first order, before and after.

    Example:
        >>> weights = torch.tensor([1.0, -1.0, 1.0])
        >>> close_uphill_(weights, before=torch.zeros(3), gradient=torch.tensor([2.0, 2.0, 0.0])).tolist()
        [1.0, 3.0, 3.0, 2.0, 0.0, -2.0]
        >>> weights
        tensor([ 0., -1.,  1.])
    """
    step = weights - before
    # Signs, not products: the product of two small numbers may be rounded to zero.
    closed = step.sign().mul_(gradient.sign()) > 0
    if threshold:
        closed &= gradient.abs() >= threshold
    proposed = _measured(step, gradient)
    weights.copy_(torch.where(closed, before, weights))
    taken = _measured(step.masked_fill_(closed, 0), gradient)
    return torch.stack([proposed[0] - taken[0], proposed[0], proposed[1], taken[1], proposed[2], taken[2]])


def nonzero_squares(gradient: Tensor) -> Tensor:
    """The sum of squares and the number of the coordinates that are not zero, ``[2]`` float64.

    Example:
        >>> nonzero_squares(torch.tensor([3.0, 0.0, 4.0])).tolist()
        [25.0, 2.0]
    """
    return torch.stack([_dot(gradient, gradient), gradient.count_nonzero().double()])


def _measured(step: Tensor, gradient: Tensor) -> Tensor:
    return torch.stack([step.count_nonzero().double(), _dot(step, step), _dot(step, gradient)])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    precise = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return torch.dot(a.flatten().to(precise), b.flatten().to(precise)).double()
