from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.projectors._base import Projector

_NOISE = 1e-12  # relative to the squared lengths: below, a sum of float64 products that cancel is rounding error


class PCGrad(Projector):
    r"""Where forgetting and retaining conflict, remove from each gradient its component along the other.

    With :math:`g_r = \sum_i g_{r,i}`, the user's own gradient, and :math:`c = \min(0, \langle g_f, g_r \rangle)`,

    .. math:: g = \Bigl(g_f - \frac{c}{\lVert g_r \rVert^2} g_r\Bigr) + \Bigl(g_r - \frac{c}{\lVert g_f \rVert^2} g_f\Bigr)

    There are two tasks, forgetting and retaining, however many micro-batches the retain gradient came in. To treat
    every row as a task of its own, use ``TorchJD(PCGradWeighting())``.

    Promised: under plain SGD, the step raises neither the forget loss nor the sum of the retain losses, to first order.
    Where they do not conflict, this is the sum of all gradients. In a conflict it also turns the retain gradient;
    :class:`HalfSpace` leaves that alone.

    Not promised: anything about a single retain row, about the step that Adam, or any other optimizer, makes of this
    gradient, or about other data. In a toy (30 steps of AdamW) the cosine of the applied step with the retain gradient still
    reached +0.18 with the gradient projected: use :class:`StepGuard`.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> PCGrad()(conflict)
        tensor([1.5000, 1.5000], dtype=torch.float64)

    References:
        Yu et al., `Gradient Surgery for Multi-Task Learning <https://arxiv.org/abs/2001.06782>`_, 2020, algorithm 1.
    """

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """One weight for the forget gradient, another for all the retain gradients."""
        weights = torch.ones_like(gramian[0])
        forget, retain, product = gramian[0, 0], gramian[1:, 1:].sum(), gramian[0, 1:].sum()
        # Retain rows may cancel each other: their sum is then rounding error without a direction, and is left alone.
        if product < 0 < forget and retain > _NOISE * gramian.diagonal()[1:].sum():
            # `product` is negative, so both weights grow: each gradient loses its part against the other by adding that one.
            weights[0] -= product / forget
            weights[1:] -= product / retain
        return weights
