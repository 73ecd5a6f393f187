"""Geometry of vectors of which only the inner products are known."""

import torch
from torch import Tensor

_CUTOFF = 1e-12  # of the largest eigenvalue; eigenvalues are squared lengths, so this is 1e-6 of a length


def reciprocal_lengths(gramian: Tensor) -> Tensor:
    """One over the length of each vector; 0 for a vector of zeros.

    Args:
        gramian: Inner products of ``k`` vectors, ``[..., k, k]``, positive semi-definite.

    Returns:
        ``[..., k]``.

    Example:
        >>> reciprocal_lengths(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
        tensor([0.5000, 0.0000])
    """
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    # `clamp_min` keeps the branch that `where` does not take finite.
    return torch.where(squares > 0, squares.clamp_min(torch.finfo(squares.dtype).tiny).rsqrt(), 0)


def orthonormal_basis(gramian: Tensor) -> tuple[Tensor, Tensor]:
    r"""An orthonormal basis of the span of ``k`` vectors, as combinations of them, and their coordinates in it.

    With :math:`K = S^{-1} V \Lambda V^\top S^{-1}`, where :math:`S` scales each vector to unit length,

    .. math:: C = S V \Lambda^{-1/2}, \qquad F = \Lambda^{1/2} V^\top S^{-1}, \qquad C^\top K C = I, \qquad F^\top F = K

    Eigenvalues below 1e-12 of the largest count as noise: a vector within about 1e-6 radians of the span of the others
    counts as lying in it.

    Args:
        gramian: Inner products of ``k`` vectors, ``[..., k, k]`` float64, positive semi-definite.

    Returns:
        The combinations :math:`C` ``[..., k, k]``, one basis vector per column, and the coordinates :math:`F`
        ``[..., k, k]``, one of the ``k`` vectors per column. If the vectors are dependent, some columns of :math:`C` and
        rows of :math:`F` are zero. If the vectors are the columns of ``G``, the basis is ``G @ C``, and a
        vector ``d`` has the coordinates ``C.mT @ (G.mT @ d)`` in it.

    Example:
        >>> twice_the_same = torch.full((2, 2), 4.0, dtype=torch.float64)
        >>> combinations, coordinates = orthonormal_basis(twice_the_same)
        >>> coordinates.abs().round(decimals=12)
        tensor([[0., 0.],
                [2., 2.]], dtype=torch.float64)
    """
    # Unit lengths first: the cutoff then compares angles, and a short vector does not count as noise.
    scale = reciprocal_lengths(gramian)
    values, vectors = torch.linalg.eigh(scale[..., :, None] * gramian * scale[..., None, :])
    independent = values > _CUTOFF * values[..., -1:]
    roots = torch.where(independent, values.clamp_min(torch.finfo(values.dtype).tiny).sqrt(), 0)
    combinations = vectors * torch.where(independent, 1 / roots, 0)[..., None, :]
    coordinates = roots[..., :, None] * vectors.mT
    lengths = torch.where(scale > 0, 1 / scale, 0)
    return scale[..., :, None] * combinations, coordinates * lengths[..., None, :]
