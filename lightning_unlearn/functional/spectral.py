"""Making the largest singular values of a gradient small: what the gradients of many examples share gives way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["hard", "soft", "both", "quadratic"]
"""What becomes of the ``q`` largest singular values; see :func:`collapse`."""

# By how often a side of the matrix is multiplied by s_q / s_i.
_LEFT = {"soft": 0, "both": 1, "quadratic": 2}
_RIGHT = {"soft": 1, "both": 1, "quadratic": 2}
# Up to this size of the smaller side the decomposition is exact: it takes milliseconds.
_EXACT = 256
_OVERSAMPLING = 8
_ITERATIONS = 4


@dataclass(frozen=True)
class SpectralFilter:
    r"""What :func:`collapse` multiplies a matrix by, from the left and from the right. It may be used again on another one.

    .. math:: (I - U D_u U^\top) \, G \, (I - V D_v V^\top)

    On another gradient than that which it was made from, the singular values are no longer what the formulas of
    :func:`collapse` say. The result still descends along the gradient: :math:`\langle G, \cdot \rangle \ge 0`.

    Args:
        left: :math:`U`, ``[..., m, q]``, orthonormal columns.
        right: :math:`V`, ``[..., n, q]``, orthonormal columns.
        from_left: The diagonal of :math:`D_u`, ``[..., q]``, from 0 to 1.
        from_right: The diagonal of :math:`D_v`.
    """

    left: Tensor
    right: Tensor
    from_left: Tensor
    from_right: Tensor

    @classmethod
    def of(cls, gradient: Tensor, q: int, kind: Kind = "hard") -> SpectralFilter:
        """The filter that collapses this gradient; arguments as of :func:`collapse`."""
        precise = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        q = min(q, *gradient.shape[-2:])
        left, values, right = _leading(precise, q)
        kept = values > _cutoff(gradient) * values[..., :1]
        if kind == "hard":
            # One direction must be left: beyond the last one, `kept` says whether there is any.
            kept = kept[..., 1:]
            removed = (kept.to(values.dtype),) * 2
        else:
            kept = kept[..., :q]
            smallest = values[..., :q].where(kept, torch.inf).amin(-1, keepdim=True)
            ratio = (smallest / values[..., :q]).where(kept, 1)
            removed = (1 - ratio ** _LEFT[kind], 1 - ratio ** _RIGHT[kind])
        width = kept.shape[-1]
        return cls(left[..., :width], right[..., :width], *removed)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The filtered gradient, ``[..., m, n]``, in the dtype of ``gradient``, which is not changed."""
        precise = gradient.to(self.left.dtype)
        precise = precise - (self.left * self.from_left[..., None, :]) @ (self.left.mT @ precise)
        precise = precise - (precise @ self.right) @ (self.right * self.from_right[..., None, :]).mT
        return precise.to(gradient.dtype)

    def to(self, device: torch.device) -> SpectralFilter:
        """The same on ``device``."""
        return SpectralFilter(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def collapse(gradient: Tensor, q: int, kind: Kind = "hard") -> Tensor:
    r"""Shrink the ``q`` largest singular values of a matrix, and leave all others, and all directions, as they are.

    With the singular values :math:`s_1 \ge s_2 \ge \dots`, for :math:`i \le q`:

    ============= =============================== ==========================================
    kind          :math:`s_i` becomes             in words
    ============= =============================== ==========================================
    ``soft``      :math:`s_q`                     the spectrum is cut off at the ``q``-th
    ``both``      :math:`s_q^2 / s_i`             soft on inputs and on outputs
    ``quadratic`` :math:`s_q^4 / s_i^3`           ``both``, twice: the largest become the smallest
    ``hard``      :math:`0`                       the ``q`` directions are left out
    ============= =============================== ==========================================

    The result still descends along the gradient: its inner product with it is positive, whatever ``q``. For that, ``q`` is
    limited to the numerical rank, and for ``hard`` to one less: a matrix of rank one stays as it is. (A singular value
    that is zero up to rounding would otherwise become the size of all the others.) The rank of a gradient is at most its
    number of tokens.

    Matrices whose smaller side is above 256 and above four times what is looked for are decomposed by a randomised subspace
    iteration, the same on every call. Where singular values near the ``q``-th are close to each other, it may mix their
    directions; the formulas above then hold approximately.

    Args:
        gradient: A matrix or a stack of them, ``[..., m, n]``, each for itself. Finite.
        q: How many singular values; 0 changes nothing.
        kind: What they become.

    Returns:
        ``[..., m, n]``, of the dtype of ``gradient``. Half precision is computed in float32.

    Example:
        >>> collapse(torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0])), q=3, kind="both").diagonal()
        tensor([0.5000, 1.0000, 2.0000, 1.0000])

    References:
        The two sides are those of `RepSelect <https://arxiv.org/abs/2606.17168>`_, 2026, by its code
        (``repselect_simple.py``), where this is written as projections of inputs and outputs.
    """
    return SpectralFilter.of(gradient, q, kind)(gradient) if q else gradient


def _leading(matrix: Tensor, q: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``q`` largest singular values and one more, if there is one, and their directions as columns."""
    smaller = min(matrix.shape[-2:])
    width = q + max(q, _OVERSAMPLING)
    if smaller > max(_EXACT, 4 * width):
        left, values, right = _sketched(matrix, width)
    else:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        right = right.mT
    # "Hard" asks whether the direction after the last one is still more than rounding.
    missing = max(q + 1 - values.shape[-1], 0)
    values = torch.nn.functional.pad(values[..., : q + 1], (0, missing))
    return left[..., : q + 1], values, right[..., : q + 1]


def _sketched(matrix: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    # As `torch.svd_lowrank`, which draws from the global generator: ours has to be left alone, and equal on all ranks.
    test = torch.randn(matrix.shape[-1], width, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    basis = torch.linalg.qr(matrix @ test.to(matrix)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix.mT @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, values, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return basis @ left, values, right.mT


def _cutoff(gradient: Tensor) -> float:
    """Singular values below this share of the largest one are rounding."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    computed = max(gradient.shape[-2:]) * torch.finfo(precise).eps  # as `torch.linalg.matrix_rank`
    return max(computed, torch.finfo(gradient.dtype).eps)  # entries in half precision were rounded before
