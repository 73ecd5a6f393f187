from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.gramian import orthonormal_basis
from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.projectors._base import Projector

_NOISE = 1e-12  # relative to the lengths: below, the sign of a product of coordinates is rounding error


class SignRule(Projector):
    r"""In the span of the retain gradients, keep only the forget gradient's coordinates that agree with retaining.

    With an orthonormal basis :math:`q_i` of the span, :math:`g_r = \sum_j g_{r,j}`,
    :math:`a_i = \langle q_i, g_f \rangle` and :math:`b_i = \langle q_i, g_r \rangle`,

    .. math:: g = P^\perp g_f + \sum_{i \,:\, a_i b_i > \tau \lVert g_f \rVert \lVert g_r \rVert} a_i q_i + g_r

    Promised: under plain SGD, forgetting does not raise the *sum* of the retain losses to first order; it may raise a
    single one. With one retain row and ``tau=0`` this is :class:`HalfSpace`. With more rows it removes more than that. How
    much depends on the basis, which the authors leave open: here, the principal axes of the normalised retain gradients.

    Not promised: anything about the step that Adam, or any other optimizer, makes of this gradient, or about other data.
    In a toy (30 steps of AdamW) the cosine of the applied step with the retain gradient reached +0.38 with no projection
    and still +0.18 with the gradient projected: use :class:`StepGuard`.

    Args:
        tau: What a coordinate must contribute to be kept, at least 0. In the paper it is absolute; here it is relative
            to the lengths of the two gradients, so that it means the same all through a fit.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> SignRule()(conflict)
        tensor([1.0000, 1.5000], dtype=torch.float64)

    References:
        `Geometric-disentanglement Unlearning <https://arxiv.org/abs/2511.17100>`_, 2025, as the authors' repository derives
        it, in the Euclidean metric and without the cap on what is kept.
    """

    def __init__(self, tau: float = 0.0) -> None:
        super().__init__()
        check_not_negative("tau", tau, why=": below 0, conflicts would be kept")
        self.tau = tau

    @override
    def extra_repr(self) -> str:
        """The threshold."""
        return f"tau={self.tau}"

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """Weights of the forget gradient minus its disagreeing coordinates, plus the retain gradients."""
        basis, retain_rows = orthonormal_basis(gramian[1:, 1:])
        forget_coordinates = basis.mT @ gramian[1:, 0]
        retain_coordinates = retain_rows.sum(1)  # one row per basis vector, one column per retain gradient
        lengths = gramian[0, 0].sqrt() * retain_coordinates.norm()
        agrees = forget_coordinates * retain_coordinates > max(self.tau, _NOISE) * lengths
        taken_out = basis @ torch.where(agrees, 0, forget_coordinates)
        return torch.cat([gramian.new_ones(1), 1 - taken_out])
