from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.cone import null_multipliers
from lightning_unlearn.projectors._base import Projector


class Orthogonal(Projector):
    r"""Remove from the forget gradient its part in the span of the retain gradients; then add those unchanged.

    .. math:: g = P^\perp g_f + \sum_i g_{r,i}, \qquad \langle P^\perp g_f, g_{r,i} \rangle = 0 \text{ for all } i

    Promised: under plain SGD, forgetting changes the loss of no retain row to first order. It also removes what would
    have lowered them; :class:`HalfSpace` keeps that.

    Not promised: anything about the step that Adam, or any other optimizer, makes of this gradient, or about other data.
    In a toy (a linear layer, 30 steps of Adam) the outputs to be kept drifted by 10.2 with no projection, by 7.1 with the
    gradient projected, by 9e-6 with the applied step projected: use :class:`StepGuard`.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> Orthogonal()(conflict)
        tensor([1.0000, 1.5000], dtype=torch.float64)

    References:
        The null rule of `Geometric-disentanglement Unlearning <https://arxiv.org/abs/2511.17100>`_, 2025, in the Euclidean
        metric.
    """

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """Weights of the forget gradient minus its part in the span of the retain gradients, plus the retain gradients."""
        taken_out = null_multipliers(gramian[1:, 1:], gramian[1:, 0]).multipliers
        return torch.cat([gramian.new_ones(1), 1 - taken_out])
