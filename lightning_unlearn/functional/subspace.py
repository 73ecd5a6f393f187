"""Subspaces of a layer's inputs, and changes of its weights that do not act on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CUTOFF = 1e-13  # of the largest eigenvalue: below it there is only the rounding of float64


@dataclass(frozen=True)
class Projection:
    """Removes from a change of weights the part that acts on protected inputs, by two products with a thin matrix.

    Args:
        basis: Orthonormal columns, ``[d, k]``, of the protected or of the free inputs.
        is_free: Whether they are those of the free inputs.

    Example:
        >>> first = torch.tensor([[1.0], [0.0]])
        >>> change = torch.tensor([[2.0, 3.0]])
        >>> Projection(first, is_free=False)(change), Projection(first, is_free=True)(change)
        (tensor([[0., 3.]]), tensor([[2., 0.]]))
    """

    basis: Tensor
    is_free: bool

    def __call__(self, change: Tensor) -> Tensor:
        """The part of ``change [n, d]`` that acts on free inputs only. Use float64: rounding errors act on all inputs."""
        basis = self.basis.to(change.dtype)
        inside = (change @ basis) @ basis.T
        return inside if self.is_free else change - inside

    @property
    def protects(self) -> int:
        """Number of protected directions."""
        return self.basis.shape[0] - self.basis.shape[1] if self.is_free else self.basis.shape[1]

    @property
    def leaves(self) -> int:
        """Number of free directions."""
        return self.basis.shape[0] - self.protects


def thinner(protected: Tensor) -> Projection:
    """The projection with the basis of the protected or of the free inputs, whichever has fewer columns.

    Args:
        protected: Orthonormal columns, ``[d, k]``.

    Example:
        >>> thinner(torch.eye(3)[:, :2]).basis.abs()
        tensor([[0.],
                [0.],
                [1.]])
    """
    d, k = protected.shape
    if 2 * k <= d:
        return Projection(protected, is_free=False)
    # A complete QR continues the protected columns to a basis of all inputs: the rest are the free ones.
    whole, _ = torch.linalg.qr(protected, mode="complete")
    return Projection(whole[:, k:].contiguous(), is_free=True)


def energy_rank(values: Tensor, total: Tensor, energy: float) -> int:
    """How many of the largest ``values`` make up the share ``energy`` of ``total``. They must be in descending order.

    Values that are zero up to rounding do not count. If all others together make up less, all of them are needed.

    Example:
        >>> energy_rank(torch.tensor([6.0, 3.0, 1.0]), torch.tensor(10.0), 0.9)
        2
    """
    present = int((values > _CUTOFF * values[:1]).sum())
    short = values.cumsum(0) < energy * (1 - _CUTOFF) * total
    return min(int(short.sum()) + 1, present)


def nystrom(sketch: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    r"""Eigenvalues and eigenvectors of a positive semi-definite matrix, from its product with a thin matrix.

    .. math:: C \approx Y (\Omega^\top Y)^{+} Y^\top, \qquad Y = C \, \Omega

    Exact if the rank of ``C`` is at most the width of the sketch. Elsewhere no eigenvalue is over-estimated.

    Args:
        sketch: :math:`Y`, ``[d, w]`` float64.
        test: :math:`\Omega`, ``[d, w]`` float64, drawn independently of ``C``.

    Returns:
        The eigenvalues ``[w]`` in descending order, zeros at the end if the rank is smaller, and eigenvectors ``[d, w]``.

    References:
        Tropp et al., `Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data
        <https://arxiv.org/abs/1706.05736>`_, 2017, eq. 2.

    Example:
        >>> C = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
        >>> test = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
        >>> nystrom(C @ test, test)[0]
        tensor([4., 1.], dtype=torch.float64)
    """
    core = test.T @ sketch
    # Symmetric but for rounding. Its inverse root is taken on the eigenvalues above rounding only: the pseudo-inverse.
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    inverse_roots = torch.where(values > _CUTOFF * values[-1], values.clamp_min(torch.finfo(values.dtype).tiny), 0)
    inverse_roots = torch.where(inverse_roots > 0, inverse_roots.rsqrt(), 0)
    left, singular, _ = torch.linalg.svd(sketch @ (vectors * inverse_roots), full_matrices=False)
    return singular**2, left
