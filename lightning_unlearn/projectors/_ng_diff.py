from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.gramian import reciprocal_lengths
from lightning_unlearn.projectors._base import Projector

_NOISE = 1e-12  # relative to the squared lengths: below, a sum of float64 products that cancel is rounding error


class NGDiff(Projector):
    r"""Add the two gradients at unit length, so that neither drowns the other; rebuilt from the abstract.

    With :math:`g_r = \sum_i g_{r,i}`, the user's own gradient,

    .. math:: g = \frac{g_f}{\lVert g_f \rVert} + \frac{g_r}{\lVert g_r \rVert}, \qquad
        \langle g, g_r \rangle = \lVert g_r \rVert \, (1 + \cos(g_f, g_r)), \qquad
        \langle g, g_f \rangle = \lVert g_f \rVert \, (1 + \cos(g_f, g_r))

    Promised: under plain SGD, the step raises neither the forget loss nor the sum of the retain losses, to first order.

    Not promised: anything about the step that Adam, or any other optimizer, makes of this gradient; see
    :class:`StepGuard`. The balance survives Adam, since the two are merged before it: what it rescales is their sum. Two
    optimizers, as of ``Unlearn(optimizer=...)``, would each undo the normalisation.

    The merged gradient is at most 2 long however small the losses are, so the learning rate alone decides when the fit
    comes to rest: let it decay. The paper sets it automatically. That part is in neither abstract nor this class. ``weight``
    of :class:`Unlearn` has no effect, except in the norms that are logged.

    Example:
        >>> gramian = torch.tensor([[4.0, -1.0], [-1.0, 0.25]], dtype=torch.float64)
        >>> NGDiff()(gramian)
        tensor([0.5000, 2.0000], dtype=torch.float64)

    References:
        Bu et al., `Unlearning as multi-task optimization: A normalized gradient difference approach with an adaptive
        learning rate <https://arxiv.org/abs/2410.22086>`_, 2024.
    """

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """One over the length of the forget gradient, and one over that of the sum of the retain gradients."""
        retain = gramian[1:, 1:].sum()
        # Retain rows may cancel each other: their sum is then rounding error without a direction, and counts as zero.
        has_direction = retain > _NOISE * gramian.diagonal()[1:].sum()
        squares = torch.stack([gramian[0, 0], torch.where(has_direction, retain, 0)])
        lengths = reciprocal_lengths(squares.diag())
        return torch.cat([lengths[:1], lengths[1:].expand(len(gramian) - 1)])
