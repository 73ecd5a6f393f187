from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import GradientEngine, Row, hessian_product, in_full_precision, refuse_coarse_weights
from lightning_unlearn.forgetting._merger import Merger
from lightning_unlearn.forgetting._unlearn import Unlearn
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.functional.settings import check_not_negative, check_positive
from lightning_unlearn.objectives import Objective


class PenalizedUnlearn(Unlearn):
    r"""Forget, and keep the forget gradient short: minima from which little is gained by a small step (GP).

    .. math:: L_f + \lambda \, \|\nabla L_f\|, \qquad
              \nabla \|g\| = \frac{H g}{\|g\|}
              \approx \frac{1}{\mu} \Bigl[ g\Bigl(\theta + \mu \frac{g}{\|g\|}\Bigr) - g \Bigr],
              \qquad \mu = \text{size} \cdot \|\theta\|

    In all else as :class:`Unlearn`: weight, projector, transforms and a private optimizer apply to the sum. Costs one more
    forget pass, and a copy of the weights. Forget passes run without autocast, in the precision of the weights.

    ``Unlearn(under=...)`` with one normalised step of length :math:`\mu` on the judged batch is this with
    :math:`\lambda = \mu / 2`.

    **Unlike the published code**, where the penalty passes through ``.item()`` and has no gradient.

    Args:
        objective: As in :class:`Unlearn`.
        penalty: :math:`\lambda`, not negative.
        size: Length of the perturbation, relative to that of all weights.
        **kwargs: As in :class:`Unlearn`, but for ``under``.

    Raises:
        ValueError: Together with ``under``; when training starts, if the precision of the weights would swallow the
            perturbation. Else as :class:`Unlearn`.

    Example:
        >>> from lightning_unlearn import NPO
        >>> callback = PenalizedUnlearn(NPO(beta=0.1), penalty=0.05)  # Trainer(callbacks=[callback])

    References:
        GP in Fan et al., `Towards LLM Unlearning Resilient to Relearning Attacks <https://arxiv.org/abs/2502.05374>`_, 2025.
    """

    def __init__(self, objective: Objective, penalty: float = 0.01, size: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(objective, **kwargs)
        check_not_negative("penalty", penalty)
        check_positive("size", size)
        if self.under.attacks:
            raise ValueError(
                "`PenalizedUnlearn` should take the forget gradient at the weights as they are. Found `under`. Use "
                "`Unlearn(under=...)`: one normalised step, as an attack, is a penalty on the gradient's norm by itself."
            )
        self.penalty, self.size = penalty, size

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace how the forget gradient is taken."""
        super().on_train_start(trainer, pl_module)
        params = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
        refuse_coarse_weights(params, "PenalizedUnlearn", self.size)
        vantage: Any = _PenalizedGradient(self._engine, self.penalty, self.size)
        zero = ZeroGradient(self.objective)
        self._merger = Merger(self._engine, self.projector, self.weight, vantage, self._rewrite, zero)


class _PenalizedGradient:
    """Stands where :class:`VantagePoints` does in a :class:`Merger`."""

    is_due = True

    def __init__(self, engine: GradientEngine, penalty: float, size: float) -> None:
        self._engine, self._penalty, self._size = engine, penalty, size

    def row(
        self, loss: Callable[[Any], Tensor], batches: Sequence[Any], params: Sequence[Tensor], *, divisor: float
    ) -> tuple[Row, Tensor]:
        """The gradient of the loss and its penalty, and the losses."""
        engine, loss = self._engine, in_full_precision(loss)

        def gradient() -> tuple[Row, Tensor]:
            return engine.row(loss, batches, params, divisor=divisor)

        row, losses = gradient()
        length = sqrt(float(engine.gramian([row], params)))
        if self._penalty and length:
            bent = hessian_product(engine, lambda: gradient()[0], row, row, params, size=self._size)
            with torch.no_grad():
                for g, term in zip(row, bent, strict=True):
                    if g is not None and term is not None:
                        g.add_(term, alpha=self._penalty / length)
        return row, losses
