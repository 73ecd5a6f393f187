from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.cone import cone_multipliers
from lightning_unlearn.projectors._base import Projector


class HalfSpace(Projector):
    r"""Take the least out of the forget gradient such that it conflicts with no retain gradient; add these as they are.

    .. math:: g = \operatorname*{arg\,min}_{p \,:\, \langle p, \, g_{r,i} \rangle \ge 0 \text{ for all } i}
        \lVert p - g_f \rVert + \sum_i g_{r,i}

    Promised: under plain SGD, forgetting raises the loss of no retain row to first order. Where nothing conflicts, this is
    the sum of all gradients, to the bit.

    Not promised: anything about the step another optimizer makes of this gradient, or about data outside these batches.
    In a toy (a small classifier, AdamW) 324 of 480 steps raised the retain loss to first order with a sum, still 183 with
    this, and none with the applied step corrected: use :class:`StepGuard`.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> HalfSpace()(conflict)
        tensor([1.0000, 1.5000], dtype=torch.float64)
        >>> HalfSpace()(-conflict + 2 * conflict.diag().diag())
        tensor([1., 1.], dtype=torch.float64)

    References:
        The constraints are those of `Gradient Episodic Memory <https://arxiv.org/abs/1706.08840>`_, 2017, eq. 8, on the
        forget gradient alone.
    """

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """The nearest forget gradient in the cone of the retain gradients' half-spaces, plus these."""
        # A step along minus the gradient raises the loss where the product is negative.
        added = cone_multipliers(gramian[1:, 1:], -gramian[1:, 0]).multipliers
        return torch.cat([gramian.new_ones(1), 1 + added])
