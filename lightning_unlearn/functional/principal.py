"""What many vectors have in common: their mean and first principal components."""

import torch
from torch import Tensor

_CUTOFF = 1e-7  # of the largest length: what is below it after orthogonalisation is rounding, and could point anywhere


def common_directions(rows: Tensor, components: int) -> Tensor:
    """An orthonormal basis of the span of the mean of ``rows`` and of their first principal components.

    Both are made orthonormal together. Mean and components are not orthogonal to one another, so taking them out one
    after the other would put a part of the first back.

    Args:
        rows: ``[L, n, D]``, for each of ``L`` layers.
        components: How many principal components.

    Returns:
        ``[L, D, k]`` float64, at most one column more than ``components``; columns of zeros where the rows span less.

    Example:
        >>> common_directions(torch.tensor([[[5.0, 1.0, 0.0], [5.0, -1.0, 0.0]]]), 1).abs().round()
        tensor([[[1., 0.],
                 [0., 1.],
                 [0., 0.]]], dtype=torch.float64)
    """
    rows = rows.double()
    mean = rows.sum(1, keepdim=True) / max(rows.shape[1], 1)
    centred = rows - mean
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    # With their lengths, by which directions that only rounding has made are told apart.
    principal = (values[..., None] * vectors)[:, :components]
    q, r = torch.linalg.qr(torch.cat([mean, principal], dim=1).mT)
    lengths = r.diagonal(dim1=1, dim2=2).abs()
    kept: Tensor = lengths > _CUTOFF * r.norm(dim=1).amax(1, keepdim=True)
    basis: Tensor = q * kept[:, None]
    return basis


def without(directions: Tensor, vectors: Tensor) -> Tensor:
    """The part of ``vectors [N, L, D]`` at right angles to orthonormal ``directions [L, D, k]``, ``[N, L, D]``.

    Example:
        >>> without(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[3.0, 4.0]]]))
        tensor([[[0., 4.]]])
    """
    inside = torch.einsum("nld,ldk->nlk", vectors, directions)
    return vectors - torch.einsum("nlk,ldk->nld", inside, directions)
