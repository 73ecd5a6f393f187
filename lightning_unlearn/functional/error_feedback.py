"""Rounding weight by weight, in which what is lost on one weight is made up for by those that are still to be rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_unlearn.functional.quantization import largest_code


def round_with_feedback(
    weight: Tensor, hessian: Tensor, *, bits: int, group_size: int | None = None, damp: float = 0.01
) -> Tensor:
    r"""Round a matrix to few bits so that a layer's outputs move little: GPTQ.

    Columns are rounded one after another, each to the levels of :func:`~.quantization.round_to_nearest`. What a column
    loses is spread over those that are to come,

    .. math:: w_k \leftarrow w_k - \frac{w_j - Q(w_j)}{U_{jj}} \, U_{jk} \quad (k > j), \qquad
        U^\top U = (H + \lambda \, \overline{\operatorname{diag} H} \, I)^{-1}

    with the upper triangular :math:`U`. Scales are those of a group's weights when its first column is reached, so that a
    ``hessian`` that is a multiple of the identity gives the very values of :func:`~.quantization.round_to_nearest`.

    Args:
        weight: ``[out, in]``.
        hessian: Of the squared error of the outputs, up to a factor: ``[in, in]``, the mean of :math:`x x^\top` over the
            inputs :math:`x`. A column of zeros belongs to an input that never occurred.
        bits: From 2 to 16.
        group_size: Number of inputs that share a scale. Defaults to one scale per output.
        damp: :math:`\lambda`, which is positive.

    Returns:
        A new tensor of the shape and dtype of ``weight``.

    Example:
        >>> weight = torch.tensor([[0.4, 0.4, 1.0]])
        >>> inputs = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the first two are always equal
        >>> round_with_feedback(weight, inputs.T @ inputs, bits=2)
        tensor([[0., 1., 1.]])

    References:
        Frantar et al., `GPTQ <https://arxiv.org/abs/2210.17323>`_, 2023, algorithm 1, without an order by activations.
    """
    values = weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    factor = _inverse_factor(hessian, damp).to(values.dtype)
    top, columns = largest_code(bits), values.shape[1]
    size = group_size or max(columns, 1)
    for start in range(0, columns, size):
        group = slice(start, min(start + size, columns))
        absmax = values[:, group].abs().amax(1)
        _round_group_(values, factor, group, absmax, top)
    return values.to(weight.dtype)


def _round_group_(values: Tensor, factor: Tensor, group: slice, absmax: Tensor, top: int) -> None:
    errors = torch.zeros_like(values[:, group])
    divisor = absmax.masked_fill(absmax == 0, 1)
    for j in range(group.start, group.stop):
        before = values[:, j].clone()
        values[:, j] = (before / divisor * top).round().clamp(-top, top) / top * absmax
        errors[:, j - group.start] = error = (before - values[:, j]) / factor[j, j]
        values[:, j + 1 : group.stop] -= torch.outer(error, factor[j, j + 1 : group.stop])
    # Those of later groups, all at once.
    values[:, group.stop :] -= errors @ factor[group, group.stop :]


def _inverse_factor(hessian: Tensor, damp: float) -> Tensor:
    """The upper triangular factor of the inverse, float64."""
    matrix = hessian.double().clone()
    diagonal = matrix.diagonal()
    diagonal[diagonal == 0] = 1  # an input that never occurred: nothing is to be made up for
    diagonal += damp * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
