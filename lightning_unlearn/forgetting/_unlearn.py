from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.attacks import Attack
from lightning_unlearn.data import DataSource
from lightning_unlearn.engine import GradientEngine, callbacks_of, unscaled, unscales_by_itself
from lightning_unlearn.forgetting._accumulating import AccumulatingCallback
from lightning_unlearn.forgetting._forget_batches import ForgetBatches, forget_stream
from lightning_unlearn.forgetting._forget_source import forget_source
from lightning_unlearn.forgetting._merger import Merger
from lightning_unlearn.forgetting._old_gradient import OldGradient
from lightning_unlearn.forgetting._one_pass import OnePass, retain_gradient_is_looked_at
from lightning_unlearn.forgetting._original_loss import OriginalLoss
from lightning_unlearn.forgetting._passes import CheaperPass, Passes
from lightning_unlearn.forgetting._private_step import PrivateStep
from lightning_unlearn.forgetting._realised_step import RealisedStep
from lightning_unlearn.forgetting._refusals import (
    refuse_after_others,
    refuse_gradients,
    refuse_settings,
    refuse_unmerged,
    refuse_unsupported,
    warn_of_other_forget_data,
)
from lightning_unlearn.forgetting._step_log import is_logged, log_step, shown_realised
from lightning_unlearn.forgetting._transforms_in_order import TransformsInOrder
from lightning_unlearn.forgetting._turns import Turn, only_learns, turn_of
from lightning_unlearn.forgetting._under import Under
from lightning_unlearn.forgetting._vantage_points import VantagePoints
from lightning_unlearn.forgetting._zero_gradient import ZeroGradient
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference
from lightning_unlearn.transforms import GradientTransform, StepChain


class Unlearn(AccumulatingCallback):
    """Add the forget gradient to any fit, right where the user's own gradient is ready.

    The user's ``training_step``, hooks, logs, optimizer and scheduler stay as they are. The data their fit trains on is the
    retain data. Before each optimizer step, forget micro-batches are run through ``readout`` and ``objective``, as many as
    there were retain micro-batches, and the two gradients are merged. Clipping and the optimizer follow.

    Forget passes move nothing of the user's. Dropout stays on, with random numbers of its own, and BatchNorm normalises by
    the forget batch, but buffers, hidden states, counters, metrics and random generators are put back to the bit.

    The module's own ``on_after_backward`` sees the retain gradient alone. Its ``on_before_optimizer_step``, the place for
    Lightning's ``grad_norm``, comes after all callbacks, and sees the merged one; with ``optimizer``, the retain gradient.

    Logged each step: the two losses, ``unlearn/forget`` and ``unlearn/retain``. Logged every ``log_every_n_steps``:

    - ``unlearn/forget_norm``, ``unlearn/retain_norm``, ``unlearn/cosine``: of the two gradients; with ``transforms``, of the
      transformed forget gradient.
    - ``unlearn/realised``: length of the step the weights took, divided by that of the step the optimizer asked for,
      measured on one tensor. It falls below 1 where bf16 weights swallow small steps.

    **With** ``optimizer``, forgetting has its own optimizer, over the same parameters. The user's optimizer steps along the
    retain gradient alone, and never sees a forget gradient. The other one steps right after it. Both gradients are computed
    at the weights before the two steps. A gradient scaler skips both steps or none. The fit's clipping and scheduler do not
    apply to it; callbacks that schedule it find it as ``forget_optimizer``. ``unlearn/realised`` and :class:`StepGuard` then
    refer to its step alone. Its state is in the checkpoint. Parameters added during the fit join its last group.

    **With** ``under``, the forget gradient is the mean of the plain one and of those taken inside of attacks, such as at the
    weights that an attacker would have after some steps of relearning. It is applied to the real weights (first order: the
    attack is held constant), so that what is forgotten stays forgotten. Each attack is met at a strength drawn by seed and
    step. :class:`Relearn` trains on the forget examples that are judged, and on those that follow. Nothing of the fit moves
    meanwhile. An attack that raises an error is left out of that step, and counted. Cost: the attack (a pass for each step
    of :class:`Relearn`), one more pass, one more gradient's memory. Logged: ``unlearn/under/<name>``, the forget loss there.

    Args:
        objective: The objective that forgetting minimises.
        readout: How to run the network. Defaults to the module's own; to one for causal language models or classifiers,
            if its cross-entropy is the loss of ``training_step``; else to :class:`TrainingStepReadout`, that loss itself.
        projector: How the two gradients are merged. Defaults to their sum. Not together with ``optimizer``.
        reference: Gives the original model's outputs, if the objective needs them. Defaults to the cheapest that suffices:
            the adapter switched off, cached likelihoods, a frozen copy. The original is the network without its adapter;
            for the other two, the network before the first step, whatever hook or checkpoint its weights came from. A
            second fit starts anew, a resumed one does not.
        weight: Factor on the forget gradient, positive.
        forget: What must go: a datamodule, a loader, a data set, or, from YAML, a mapping with ``class_path`` and
            ``init_args``. Wins over ``forget_dataloader`` of the datamodule (see :class:`ForgetRetainData`), the default.
        seed: Seed of the order of the forget data, unless a :class:`ForgetRetainData` gives one.
        optimizer: From parameters to an optimizer for forgetting alone, such as ``torch.optim.SGD``. Defaults to none: the
            gradients are merged. Costs one more gradient's memory, and the optimizer's state.
        transforms: Rewrite the forget gradient, tensor by tensor and in this order, before it is merged or given to
            ``optimizer``: :class:`RowMask`, or any :class:`GradientTransform`. Costs one more gradient's memory.
        under: Attacks, by name, inside of which the forget gradient is taken, too.
        under_every: In every how many optimizer steps.
        under_retain: Whether the retain gradient becomes the mean over the same vantage points. It is then the cross-entropy
            of the readout (the loss of ``training_step``, where that is what the readout runs).
        passes: Whether forget rows run in the retain rows' pass, where that gives the same gradient (see :class:`Passes`).
            Defaults to :class:`CheaperPass`: where it takes no more memory.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed; under FSDP1 with a transform that needs
            whole matrices; with ``projector`` or ``under_retain`` after another :class:`Unlearn` that merges; when the fit
            starts, with LBFGS or sparse gradients.
        RuntimeError: When training ends, if an attack of ``under`` failed in every step.
        ValueError: In ``setup``, if there is no forget or no retain data; during the fit, if forget examples are among the
            retain data, or nothing in the forget data is supervised.
        FloatingPointError: If a loss or a gradient is not finite.

    Example:
        >>> from lightning_unlearn import NPO, Relearn
        >>> callback = Unlearn(NPO(beta=0.1))  # Trainer(callbacks=[callback])
        >>> lasting = Unlearn(NPO(beta=0.1), under={"relearn": Relearn(steps=20)}, under_every=2)
        >>> separate = Unlearn(NPO(beta=0.1), optimizer=lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9))
    """

    def __init__(
        self,
        objective: Objective,
        readout: Readout | None = None,
        projector: Projector | None = None,
        reference: Reference | None = None,
        weight: float = 1.0,
        forget: DataSource | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable | None = None,
        transforms: list[GradientTransform] | None = None,
        under: Mapping[str, Attack] | None = None,
        under_every: int = 1,
        under_retain: bool = False,
        passes: Passes | None = None,
    ) -> None:
        parts = {"objective": objective, "readout": readout, "projector": projector, "reference": reference}
        refuse_settings(weight, optimizer, transforms, **parts)
        self.objective, self.readout = objective, readout
        self.projector, self.reference = projector, reference
        self.weight, self.seed, self.forget = weight, seed, forget
        self.optimizer = optimizer
        self.transforms = list(transforms or ())
        self.under = Under(under, under_every, under_retain)
        self.passes = CheaperPass() if passes is None else passes
        check_kind("passes", self.passes, Passes, "TwoPasses()")
        self.is_idle = False
        self._start_anew()

    @property
    def forget_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer that ``optimizer`` made for this fit; ``None`` before the fit, or without ``optimizer``."""
        return None if self._private is None else self._private.optimizer

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and attach to the original model before a checkpoint replaces it."""
        if stage != "fit":
            return
        refuse_unsupported(trainer, pl_module, self.transforms)
        refuse_after_others(trainer, self, Unlearn)
        warn_of_other_forget_data(trainer, Unlearn)
        self._loader, self._order = forget_source(trainer, self.forget)
        StepChain.of(trainer).add_forgetting(self)
        self._start_anew()
        self._parts_start_anew()
        self._original = OriginalLoss(
            self.objective, self.readout, self.reference, trainer, pl_module, self.under.each()
        )

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make what needs the optimizer: it exists from here on, as do sharded modules and those of ``configure_model``."""
        refuse_gradients(trainer, pl_module)
        self._engine = GradientEngine(pl_module, trainer)
        if self.optimizer is not None:
            self._private = PrivateStep(self._engine, self.optimizer, trainer.optimizers[0])
        self._original.start()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the forget stream, and continue where a checkpoint left off."""
        self._rewrite = TransformsInOrder(self.transforms, self._engine)
        self._rewrite.attach(pl_module)
        self._realised = RealisedStep()
        self.objective.to(pl_module.device)
        self._stream = forget_stream(trainer, self._loader, self._order, self.seed)
        readout = self._original.decide(self._loader, resumes=bool(self._restored))
        engine, seed = self._engine, self.seed
        self._batches = ForgetBatches(engine, self._stream, readout, seed=seed, reach=self.under.reach)
        self._vantage = VantagePoints(self.under, seed=seed, engine=engine, batches=self._batches, readout=readout)
        zero = ZeroGradient(self.objective)
        self._merger = Merger(engine, self.projector, self.weight, self._vantage, self._rewrite, zero)
        self._one_pass = OnePass(engine, self._batches, lambda: self._original.loss, self.weight, self.passes)
        self._old_gradient = OldGradient(trainer, pl_module)
        apart = self._private is not None or bool(self.under.attacks) or not self._one_pass.is_possible
        self._needs_apart = apart or retain_gradient_is_looked_at(trainer, pl_module, self)
        if self._private is not None:
            self._private.cover(trainer.optimizers[0])  # others may have added groups in their `on_fit_start`
        self._restore()
        StepChain.of(trainer).attach(trainer.optimizers[0])

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the micro-batch, and check it for forget examples."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.see_original(trainer, pl_module)
        self._batches.saw_retain(batch)
        self._vantage.saw_retain(batch)
        measured = self._merger.wants_measured(is_logged(trainer)) or trainer.fit_loop._skip_backward
        joins = not (measured or self._needs_apart) and self._merger.only_adds and turn_of(trainer) is Turn.BOTH
        self._old_gradient.offer(self._one_pass if joins else None, batch_idx)

    def see_original(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the network for the original, unless it is known: before the first step, or before an edit."""
        self._original.see(self._engine, self._stream)

    def keep_original(self, parameter: nn.Parameter) -> None:
        """An edit is about to change ``parameter``: the reference keeps what it was."""
        self._original.keep(parameter)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Show the retain loss to projectors that use it."""
        super().on_before_backward(trainer, pl_module, loss)
        if self._private is not None:
            # In this hook: guards cover what was added in the next one, `on_after_backward`.
            self._private.cover(trainer.optimizers[0])
        self._merger.saw_retain(loss, trainer.accumulate_grad_batches)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Merge, or keep the forget gradient: ``.grad`` is accumulated, reduced and unscaled here, and not yet clipped."""
        self.is_idle = trainer.fit_loop._skip_backward  # SWA renews BatchNorm's statistics in an epoch of its own
        if self.is_idle:
            return
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._only_learns = only_learns(trainer, params, is_first=callbacks_of(trainer, Unlearn)[0] is self)
        if self._only_learns:
            self._original.join()
            return self._pass_over()
        joined, batches = self._one_pass.take()
        logged, accumulate = is_logged(trainer), trainer.accumulate_grad_batches
        merger, loss = self._merger, self.forget_loss
        self._vantage.begin(self._steps["merged"])
        # Fused optimizers unscale inside their step. Until then `p.grad` is scaled, and the forget gradient is not.
        with unscaled(self._engine, optimizer, params), self._original.loss.originals_kept():
            if self._private is None:
                how: Any = {"accumulate": accumulate, "measured": logged, "joined": joined}
                self._step_log = merger.merge_(loss, batches, params, **how)
            else:
                row, self._step_log = merger.forget_row(loss, batches, params, accumulate=accumulate)
                self._private.hold(params, row, measured=logged)
        self._step_log |= self._vantage.take_log()
        self._vantage.pass_over()  # retain micro-batches of a step in which no attack was due
        self._batches.refuse_unsupervised()
        if self._private is not None:
            return  # counted and measured in `after_fit_step`, if the step is not skipped
        self._steps["merged"] += 1
        if logged and not unscales_by_itself(self._engine, optimizer):
            self._realised.before(optimizer, params)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the step did."""
        if self._step_log:
            log_step(pl_module, self._engine, self._step_log, outputs)
            self._step_log = {}

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prove that forgetting happened: every optimizer step must have had a forget gradient, or an own step after it."""
        self._end(trainer)
        refuse_unmerged(self._steps)
        self._vantage.refuse_never_met()
        self._batches.refuse_unsupervised(is_end=True)

    def forget_loss(self, batch: Any) -> Tensor:
        """The objective on one forget micro-batch, as the forget data gives it."""
        with self._batches.opened(batch) as own:
            return self._original.loss(own, saw=self._batches.saw_prediction)

    def after_fit_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Measure the fit's step, or take the own step after it. The chain calls this before any guard."""
        if self._only_learns:
            return False
        self._steps["taken"] += 1
        if self._private is None:
            realised, taken = self._realised.after(optimizer), False
        else:
            taken = self._private.take_()
            self._steps["merged"] += taken
            realised = self._private.realised
        self._step_log |= shown_realised(realised)
        return taken
