r"""Exact projections of a step onto the safe steps, computed from inner products alone.

A step :math:`d` is changed as little as possible, in the metric :math:`M`. To first order, the result does not increase
(``cone``), or does not change (``null``), any of :math:`k` losses with gradients :math:`G`. It is
:math:`d - M^{-1} G \lambda`. The multipliers :math:`\lambda` depend only on :math:`K = G^\top M^{-1} G` and
:math:`b = G^\top d`. These are ``k * (k + 1)`` numbers, however many parameters there are and however they are sharded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_unlearn.functional.gramian import orthonormal_basis, reciprocal_lengths
from lightning_unlearn.functional.least_squares import non_negative_least_squares

# Nearly dependent directions leave a violation of about 1e-6 of the whole step. Here it is measured relative to the step's
# part in their span, which may be much shorter than the step.
_SAFE = 1e-4


@dataclass(frozen=True)
class Correction:
    """How much of each direction to take out of a step, and how well that works.

    Args:
        multipliers: One per direction, ``[..., k]``; all zero, exactly, for a step that needs no correction.
        violation: The largest cosine left between the corrected step and a direction, ``[...]``. The length is that of the
            step before the correction, within the span of the directions. Infinite if the input was not finite; then the
            multipliers are zero, and the step should not be taken.
        exact: Whether this is the smallest safe correction, ``[...]`` bool. If not, a fall-back was used, or a violation of
            more than 1e-4 is left.
    """

    multipliers: Tensor
    violation: Tensor
    exact: Tensor


def null_multipliers(gramian: Tensor, products: Tensor) -> Correction:
    r"""Make a step orthogonal to all directions.

    .. math:: \min_\lambda \lVert M^{-1} G \lambda \rVert_M \quad \text{s.t.} \quad G^\top (d - M^{-1} G \lambda) = 0,
        \qquad \lambda = K^+ b

    Directions may be dependent or zero, and their lengths may differ by factors from 1e-15 to 1e15.

    Args:
        gramian: :math:`K = G^\top M^{-1} G`, ``[..., k, k]`` float64. Leading dimensions are separate problems.
        products: :math:`b = G^\top d`, ``[..., k]`` float64.

    Returns:
        The multipliers and what they leave.

    Example:
        >>> K = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> null_multipliers(K, torch.tensor([2.0, -3.0], dtype=torch.float64)).multipliers
        tensor([ 0.5000, -3.0000], dtype=torch.float64)
    """
    problem = _Problem.of(gramian, products)
    solution = problem.on_the_whole_span()
    return problem.correction(solution, problem.left(solution).abs(), solved=torch.ones_like(problem.finite))


def cone_multipliers(gramian: Tensor, products: Tensor) -> Correction:
    r"""Make a step increase none of the losses. A step that increases none is left as it is.

    .. math:: \min_{\lambda \ge 0} \lVert M^{-1} G \lambda \rVert_M \quad \text{s.t.} \quad
        G^\top (d - M^{-1} G \lambda) \le 0

    For one direction, :math:`\lambda = \max(0, b) / K`. The conditions of optimality, :math:`\lambda \ge 0`,
    :math:`K \lambda \ge b` and :math:`\lambda^\top (K \lambda - b) = 0`, are those of a non-negative least squares
    problem, which active sets solve exactly. Should that fail, :func:`null_multipliers` is used instead. It is safe, too,
    but takes out more of the step.

    Args:
        gramian: :math:`K = G^\top M^{-1} G`, ``[..., k, k]`` float64. Leading dimensions are separate problems.
        products: :math:`b = G^\top d`, ``[..., k]`` float64. Positive where the step increases the loss.

    Returns:
        The multipliers and what they leave.

    Example:
        >>> K = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> cone_multipliers(K, torch.tensor([2.0, -3.0], dtype=torch.float64)).multipliers
        tensor([0.5000, 0.0000], dtype=torch.float64)

    References:
        Lawson and Hanson, *Solving Least Squares Problems*, 1974, chapter 23.
    """
    problem = _Problem.of(gramian, products)
    solution, solved = problem.on_the_conflicting_side()
    solution = torch.where(solved[..., None], solution, problem.on_the_whole_span())
    return problem.correction(solution, problem.left(solution).clamp_min(0), solved)


@dataclass(frozen=True)
class _Problem:
    """The problem with directions and step scaled to length 1, so that tolerances mean the same at every scale.

    Args:
        original: Gives device and dtype of the results.
        finite: Whether the input was finite, for each problem.
        scale: One over the length of each direction.
        cosines: Gramian of the scaled directions.
        basis: Combinations of the directions that are an orthonormal basis of their span.
        factor: The directions in that basis.
        length: Length of the step's part in the span.
        products: Cosines of that part with the directions.
    """

    original: Tensor
    finite: Tensor
    scale: Tensor
    cosines: Tensor
    basis: Tensor
    factor: Tensor
    length: Tensor
    products: Tensor

    @classmethod
    def of(cls, gramian: Tensor, products: Tensor) -> _Problem:
        # One problem that is not finite must not spoil the others: it is solved with zeros, and marked at the end.
        finite = gramian.isfinite().all(-1).all(-1) & products.isfinite().all(-1)
        # On the CPU: the matrices are tiny, and active sets are a chain of small decisions.
        gramian = torch.where(finite[..., None, None], gramian, 0).cpu().double()
        scale = reciprocal_lengths(gramian)
        cosines = scale[..., :, None] * gramian * scale[..., None, :]
        basis, factor = orthonormal_basis(cosines)
        along = scale * torch.where(finite[..., None], products, 0).cpu().double()
        coordinates = (basis.mT @ along[..., None])[..., 0]
        # The larger of the two, so that no cosine exceeds 1, however nearly dependent the directions are.
        length = torch.maximum(_largest(along.abs()), torch.linalg.vector_norm(coordinates, dim=-1))
        length = torch.where(length > 0, length, 1)
        return cls(products, finite.cpu(), scale, cosines, basis, factor, length, along / length[..., None])

    @property
    def coordinates(self) -> Tensor:
        """Coordinates of the step's part in the span."""
        return (self.basis.mT @ self.products[..., None])[..., 0]

    def left(self, solution: Tensor) -> Tensor:
        """Cosines of the corrected step with the directions; positive is uphill."""
        return self.products - (self.cosines @ solution[..., None])[..., 0]

    def on_the_whole_span(self) -> Tensor:
        return (self.basis @ self.coordinates[..., None])[..., 0]

    def on_the_conflicting_side(self) -> tuple[Tensor, Tensor]:
        """The solution, and whether it was found; exactly zero for a safe step."""
        # Only problems with a conflict are solved: the rest stays at the zeros it starts with.
        n, k = self.length.numel(), self.products.shape[-1]
        factors = self.factor.reshape(n, k, k)
        targets = self.coordinates.reshape(n, k)
        solutions, solved = torch.zeros_like(targets), torch.ones(n, dtype=torch.bool)
        for i in (self.products > 0).any(-1).reshape(n).nonzero()[:, 0].tolist():
            x, solved[i] = non_negative_least_squares(factors[i].numpy(), targets[i].numpy())
            solutions[i] = torch.from_numpy(x)
        return solutions.view_as(self.products), solved.view_as(self.length)

    def correction(self, solution: Tensor, left: Tensor, solved: Tensor) -> Correction:
        violation = torch.where(self.finite, _largest(left), torch.inf)
        return Correction(
            (self.length[..., None] * self.scale * solution).to(self.original),
            violation.to(self.original),
            (solved & (violation <= _SAFE)).to(self.original.device),
        )


def _largest(values: Tensor) -> Tensor:
    """The largest of non-negative values, ``[...]``; 0 if there are none."""
    return F.pad(values, (0, 1)).amax(-1)
