from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import (
    Row,
    decided_readout,
    in_full_precision,
    refuse_coarse_weights,
    show_original,
    strategy_kind,
)
from lightning_unlearn.forgetting._bilevel_merger import BilevelMerger
from lightning_unlearn.forgetting._curvature import Curvature, FiniteDifference
from lightning_unlearn.forgetting._potential import SIMILARITIES, Potential
from lightning_unlearn.forgetting._unlearn import Unlearn
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.functional.settings import check_kind, check_not_negative, check_positive, check_whole
from lightning_unlearn.objectives import CrossEntropy, GradientAscent, Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference
from lightning_unlearn.transforms import Stage, StepChain


class BilevelUnlearn(Unlearn):
    r"""Forget in an inner loop, and let the fit's own steps bring back what must stay (OFMU).

    Rebuilt from notes on the paper and its reviews: there is no public code, and where the outer gradient is taken is
    ambiguous. With the forget loss :math:`\ell_f` that is *descended* (minus the one that the paper ascends), a round is

    .. math:: \phi(\theta) = \ell_f + \beta \, s\bigl(\cos(\nabla \ell_f, \nabla L_r)\bigr), \qquad
              \theta \leftarrow \theta - \eta \, \|\theta\| \, \frac{\nabla \phi}{\|\nabla \phi\|} \quad (T \text{ times}),
              \qquad g = \nabla L_r + \rho \, \nabla \|\nabla \phi\|^2

    The inner steps move the weights before the first micro-batch of an optimizer step. The fit's own ``training_step`` then
    computes :math:`\nabla L_r` where they have led, the last term is added to it there, and the fit's optimizer takes
    ``outer_steps`` such steps before the next round. With :math:`\beta = \rho = 0` a round is ascent, then descent.

    **Safer than the paper**, on our evidence on small models, and so that it fails less often:

    - The forget loss should be bounded. Together with the last term, unbounded ascent drives a few outliers to infinity
      and leaves the rest known by heart.
    - ``rho`` is small: from 0.1 on, the term holds unbounded ascent back altogether.
    - Several outer steps a round: with a single one and a large ``rho`` nothing is forgotten.
    - The similarity is :math:`\cos^2`, which drives the two gradients to be orthogonal. The paper's ``"cos"`` drives them to
      be opposed in its sign (the same direction in ours), and dominates a network that knows little.
    - Inner steps have a length, relative to that of the weights: where everything is known by heart the gradient vanishes,
      and plain ascent does not move. :class:`Bounded` stops them once its bound is reached. :class:`NPO`, whose gradient
      only shrinks, goes on at full length, at the expense of what must stay.

    Inner steps keep to the restrictions of the fit (:class:`TrainOnly`, :class:`SubspaceGuard`), but no :class:`StepGuard`
    sees them, so it is refused, as are other transforms of the step. Forget micro-batches are taken, and resumed, as in
    :class:`Unlearn`; a round uses the first one of its step. What it logs is that of :class:`Unlearn`, with the gradient of
    :math:`\phi` as the forget gradient.

    Cost: with the defaults thirteen more passes a step, three and a quarter with ``beta=0`` (:class:`Unlearn`: one). A
    gradient of the potential takes one pass, four with ``beta``; there is one for each inner step, and two for the last
    term. They run without autocast, in the precision of the weights.

    Args:
        objective: The forget loss, minimised. ``Bounded(GradientAscent(), bound=...)`` is a good one.
        readout: As in :class:`Unlearn`.
        reference: As in :class:`Unlearn`.
        forget: As in :class:`Unlearn`.
        seed: As in :class:`Unlearn`.
        beta: Weight of the similarity of forget and retain gradient. 0 leaves it out, which saves three of four passes.
        sim: ``"cos2"``, or the paper's ``"cos"``.
        rho: Weight of the squared norm of the potential's gradient.
        inner_steps: Inner steps a round.
        inner_lr: Length of an inner step, relative to that of all weights together.
        outer_steps: Optimizer steps a round.
        curvature: :class:`FiniteDifference`, the default, or :class:`DoubleBackward`.

    Raises:
        NotImplementedError: In ``setup``, as :class:`Unlearn`, and with ``DoubleBackward`` in several processes or under a
            gradient scaler. When training starts, beside a transform of the step that is no restriction.
        ValueError: When training starts, if the precision of the weights would swallow the inner steps. Else as
            :class:`Unlearn`.

    Example:
        >>> from lightning_unlearn import Bounded
        >>> loss = Bounded(GradientAscent(), bound=6.46)  # guessing among 640 tokens
        >>> callback = BilevelUnlearn(loss, inner_steps=5, outer_steps=4)  # Trainer(callbacks=[callback])

    References:
        OFMU: Optimization-Driven Framework for Machine Unlearning, ICLR 2026.
    """

    def __init__(
        self,
        objective: Objective,
        readout: Readout | None = None,
        reference: Reference | None = None,
        forget: DataSource | None = None,
        seed: int = 0,
        beta: float = 0.1,
        sim: Literal["cos", "cos2"] = "cos2",
        rho: float = 1e-3,
        inner_steps: int = 5,
        inner_lr: float = 2e-3,
        outer_steps: int = 4,
        curvature: Curvature | None = None,
    ) -> None:
        super().__init__(objective, readout, reference=reference, forget=forget, seed=seed)
        check_not_negative("beta", beta)
        check_not_negative("rho", rho)
        check_whole("inner_steps", inner_steps)
        check_positive("inner_lr", inner_lr)
        check_whole("outer_steps", outer_steps)
        if sim not in SIMILARITIES:
            raise ValueError(f"`sim` should be 'cos' or 'cos2'. Found `sim = {sim!r}`.")
        self.beta, self.rho, self.sim = beta, rho, sim
        self.inner_steps, self.inner_lr, self.outer_steps = inner_steps, inner_lr, outer_steps
        self.curvature = FiniteDifference() if curvature is None else curvature
        check_kind("curvature", self.curvature, Curvature, "FiniteDifference()")
        self._is_between_steps, self._has_shown = True, False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.rho and isinstance(self.objective, GradientAscent):
            rank_zero_warn(
                "The forget loss of `BilevelUnlearn` should be bounded. Found `GradientAscent()` and "
                f"`rho = {self.rho}`: together they drive a few outliers to infinity, and leave the rest known. Use "
                "`NPO()`, `Bounded(GradientAscent(), bound=...)`, or `rho=0`."
            )
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if stage == "fit" and not self.curvature.works_on_ranks and (strategy_kind(trainer) != "single" or is_scaled):
            raise NotImplementedError(
                f"`{type(self.curvature).__name__}` should run in one process, without a gradient scaler. Found "
                f"`{type(trainer.strategy).__name__}`, `precision={trainer.precision!r}`. Use `FiniteDifference()`."
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace how the forget gradient is merged."""
        super().on_train_start(trainer, pl_module)
        _refuse_transforms(trainer)
        refuse_coarse_weights(self._params(trainer), "BilevelUnlearn", self.inner_lr)
        retain = decided_readout(trainer, pl_module, None).for_mean()
        network = retain.find_network(pl_module)

        def retain_loss(batch: Any) -> Tensor:
            loss: Tensor = CrossEntropy()(retain(network, batch))
            return loss

        losses = in_full_precision(self.forget_loss), in_full_precision(retain_loss)
        potential = Potential(self._engine, *losses, self.beta, self.sim)
        zero = ZeroGradient(self.objective)
        self._bilevel = BilevelMerger(potential, self.curvature, self.rho, self._vantage, zero)
        self._merger = self._bilevel
        self._is_between_steps, self._has_shown = True, False

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the inner steps of a round before its first micro-batch is run."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if trainer.fit_loop._skip_backward:
            return  # SWA renews BatchNorm's statistics in an epoch of its own
        self._bilevel.saw_retain_batch(batch)
        if self._is_between_steps and self._steps["merged"] % self.outer_steps == 0:
            if not self._has_shown:
                show_original(trainer, pl_module)
                self._has_shown = True
            chain, lr = StepChain.of(trainer), self.inner_lr

            def restrict(row: Row, params: Any) -> Row:
                for restriction in chain.restrictions:
                    row = restriction.allowed(row, params)
                return row

            batches, params = self._batches.take(), self._params(trainer)
            self._bilevel.ascend(batches, params, restrict, steps=self.inner_steps, lr=lr)
        self._is_between_steps = False

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Add the gradient-norm term."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        self._is_between_steps = True

    def _params(self, trainer: pl.Trainer) -> list[Tensor]:
        return [p for group in trainer.optimizers[0].param_groups for p in group["params"] if p.requires_grad]


def _refuse_transforms(trainer: pl.Trainer) -> None:
    others = [type(t).__name__ for t in StepChain.of(trainer).transforms if t.stage != Stage.RESTRICT]
    if others:
        raise NotImplementedError(
            f"`BilevelUnlearn` should move the weights by its inner steps, too. Found `{others[0]}`, which sees the "
            "optimizer's steps alone, so that it would not hold. Leave it out, or use `Unlearn`; `TrainOnly` and "
            "`SubspaceGuard` hold for inner steps as well."
        )
