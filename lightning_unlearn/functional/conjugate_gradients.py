"""Linear systems of which only products with the matrix are known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, *, steps: int, tolerance: float = 1e-8
) -> Tensor:
    """Solve ``product(x) = right`` for a symmetric positive definite matrix.

    Args:
        product: From a vector to its product with the matrix, of the shape of ``right``.
        right: Of any shape, in float64 best.
        steps: The most products that are taken.
        tolerance: When to stop: the length of the residual over that of ``right``.

    Returns:
        The solution, of the shape of ``right``; the best so far if ``steps`` are too few.

    Example:
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> conjugate_gradients(lambda x: matrix @ x, matrix @ torch.tensor([1.0, -1.0]).double(), steps=2)
        tensor([ 1., -1.], dtype=torch.float64)

    References:
        Hestenes and Stiefel, `Methods of Conjugate Gradients for Solving Linear Systems
        <https://doi.org/10.6028/jres.049.044>`_, 1952.
    """
    solution = torch.zeros_like(right)
    residual, square = right.clone(), right.square().sum()
    direction, enough = right.clone(), tolerance**2 * square
    for _ in range(steps):
        if square <= enough:
            break
        turned = product(direction)
        length = square / (direction * turned).sum()
        solution, residual = solution + length * direction, residual - length * turned
        before, square = square, residual.square().sum()
        direction = residual + square / before * direction
    return solution
