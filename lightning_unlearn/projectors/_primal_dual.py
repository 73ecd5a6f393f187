from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_finite, check_not_negative, check_positive, check_whole
from lightning_unlearn.projectors._base import Projector


class ObservingProjector(Projector):
    """A projector that also depends on the losses: :class:`Unlearn` passes them to :meth:`observe`, and saves its state."""

    @abstractmethod
    def observe(self, forget: Tensor, retain: Tensor) -> None:
        """Take note of the losses of the step to come: once per optimizer step, before the gradients are merged.

        Args:
            forget: Mean of the objective over the step's micro-batches and over ranks, ``[]``.
            retain: The same of the user's own loss, ``[]``, neither scaled nor divided for accumulation.
        """


class PrimalDual(ObservingProjector):
    r"""Forget as much as keeps the retain loss below a bound: the weight of retaining is a Lagrange multiplier.

    .. math:: g = g_f + \lambda \, g_r, \quad
        \lambda \leftarrow \max\bigl(0, \; \lambda + \eta \, (L_r - \varepsilon)\bigr)

    The multiplier is updated once per optimizer step, by the mean retain loss over all micro-batches and ranks of the
    step, before it is used in that step. OpenUnlearning updates it per micro-batch, each rank by itself, and loses it on
    resume.

    Args:
        eps: The bound :math:`\varepsilon` on the retain loss.
        step: The step size :math:`\eta`, positive.
        initial: The multiplier at the start, not negative.
        warm_up_steps: Optimizer steps for which it stays there.

    Example:
        >>> projector = PrimalDual(eps=0.5, step=2.0)
        >>> projector.observe(torch.tensor(1.0), torch.tensor(0.75))  # 1 + 2 * (0.75 - 0.5)
        >>> projector(torch.eye(2, dtype=torch.float64))
        tensor([1.0000, 1.5000], dtype=torch.float64)

    References:
        Constrained entropic unlearning, `arXiv 2506.05314 <https://arxiv.org/abs/2506.05314>`_, 2025, whose forget loss is
        :class:`LogitMarginFlattening`; rebuilt from OpenUnlearning's code (PDU).
    """

    multiplier: Tensor
    steps: Tensor

    def __init__(self, eps: float, step: float = 1.0, initial: float = 1.0, warm_up_steps: int = 0) -> None:
        super().__init__()
        check_finite("eps", eps)
        check_positive("step", step)
        check_not_negative("initial", initial)
        check_whole("warm_up_steps", warm_up_steps, least=0)
        self.eps = eps
        self.step = step
        self.initial = initial
        self.warm_up_steps = warm_up_steps
        # Buffers, so that a resumed fit goes on from the same multiplier.
        self.register_buffer("multiplier", torch.tensor(initial, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    @override
    def extra_repr(self) -> str:
        """The settings."""
        return f"eps={self.eps}, step={self.step}, initial={self.initial}, warm_up_steps={self.warm_up_steps}"

    @override
    def observe(self, forget: Tensor, retain: Tensor) -> None:
        """Move the multiplier by how far the retain loss is above the bound."""
        self.steps += 1
        if self.steps > self.warm_up_steps:
            violation = retain.detach().to(self.multiplier) - self.eps
            self.multiplier.add_(self.step * violation).clamp_(min=0)

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """One for forgetting, the multiplier for each retain gradient."""
        weights = self.multiplier.to(gramian).expand(len(gramian)).clone()
        weights[0] = 1
        return weights
