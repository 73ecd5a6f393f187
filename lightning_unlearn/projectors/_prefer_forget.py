from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_positive
from lightning_unlearn.projectors._base import Projector


class PreferForget(Projector):
    r"""Forgetting comes first: retaining may only use what does not change the forget loss.

    With :math:`g_r = \sum_i g_{r,i}`, the user's own gradient,

    .. math:: g = g_f + \gamma \Bigl(g_r - \frac{\langle g_r, g_f \rangle}{\lVert g_f \rVert^2} g_f\Bigr), \qquad
        \langle g, g_f \rangle = \lVert g_f \rVert^2

    Promised: under plain SGD, the forget loss falls, to first order, exactly as if there were no retaining. The opposite of
    :class:`Orthogonal`, which protects what must stay. The projection holds whether the two conflict or not. So where
    retaining would help to forget, that help is removed, too; :class:`PreferForgetInConflict` keeps it.

    Not promised: anything about the retain loss, or about the step that Adam, or any other optimizer, makes of this.

    Args:
        gamma: Weight of what is left of the retain gradient, positive.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> PreferForget()(conflict)
        tensor([1.5000, 1.0000], dtype=torch.float64)

    References:
        Reisizadeh et al., `BLUR: A Bi-Level Optimization Approach for LLM Unlearning
        <https://arxiv.org/abs/2506.08164>`_, 2025, as its code has it.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        check_positive(
            "gamma", gamma, why=": without retaining, leave the retain gradient out by `WeightedSum(retain=0)`"
        )
        self.gamma = gamma

    @override
    def extra_repr(self) -> str:
        """The weight."""
        return f"gamma={self.gamma}"

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """One weight for the forget gradient, ``gamma`` for all the retain gradients."""
        weights = torch.full_like(gramian[0], self.gamma)
        forget, product = gramian[0, 0], gramian[0, 1:].sum()
        weights[0] = 1
        if forget > 0:
            weights[0] -= self.gamma * self._taken_out(product) / forget
        return weights

    def _taken_out(self, product: Tensor) -> Tensor:
        """Of the inner product with the forget gradient, what the retain gradient loses."""
        return product


class PreferForgetInConflict(PreferForget):
    r"""As :class:`PreferForget`, but where retaining helps to forget, it is left as it is.

    .. math:: g = g_f + \gamma \Bigl(g_r - \frac{\min(0, \langle g_r, g_f \rangle)}{\lVert g_f \rVert^2} g_f\Bigr), \qquad
        \langle g, g_f \rangle \ge \lVert g_f \rVert^2

    Promised: under plain SGD, the forget loss falls, to first order, at least as if there were no retaining. Where the two
    do not conflict, this is their sum.

    Args:
        gamma: Weight of what is left of the retain gradient, positive.

    Example:
        >>> conflict = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
        >>> PreferForgetInConflict()(conflict), PreferForgetInConflict()(conflict.abs())
        (tensor([1.5000, 1.0000], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """

    @override
    def _taken_out(self, product: Tensor) -> Tensor:
        return product.clamp_max(0)
