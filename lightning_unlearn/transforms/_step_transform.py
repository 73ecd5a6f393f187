from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.engine import (
    Row,
    refuse_manual_optimization,
    refuse_optimizers,
    refuse_two_sets_of_weights,
    strategy_kind,
)
from lightning_unlearn.runtime import drop_copies
from lightning_unlearn.transforms._chain import Stage, StepChain
from lightning_unlearn.transforms._step import Step


class StepTransform(pl.Callback):
    """Changes the step that the optimizer really took, with momentum, weight decay, clipping and schedules in it.

    A transform has a ``stage`` and a method :meth:`after`, which writes new weights. It may stand anywhere in the trainer's
    list of callbacks: the trainer's :class:`StepChain` calls all transforms in the order of their stages. The optimizer's
    state stays that of the step it proposed.

    Attributes:
        stage: Its place in the order of transforms; see :class:`Stage`.
        prefix: Prefix of its names in the log.
        works_on_flat_shards: Whether it can work under FSDP1, which flattens parameters.

    Raises:
        NotImplementedError: In ``setup``, under manual optimization or DeepSpeed; when training starts, with LBFGS
            or a schedule-free optimizer.
        RuntimeError: When training ends, if an optimizer step was not transformed.

    Example:
        >>> class Halved(StepTransform):
        ...     '''Takes half of each step.'''
        ...
        ...     stage, prefix = Stage.PROXIMAL, "halved"
        ...
        ...     @torch.no_grad()
        ...     def after(self, step):
        ...         for p in step.params:
        ...             p.lerp_(step.before(p), 0.5)
        >>> halved = Halved()  # Trainer(callbacks=[halved])
    """

    stage: ClassVar[Stage]
    prefix: ClassVar[str]
    works_on_flat_shards: ClassVar[bool] = True

    def __init__(self) -> None:
        self._steps = {"taken": 0, "transformed": 0}
        self._step_log: dict[str, float] = {}
        self._restored: dict[str, Any] = {}
        self._has_started = False

    def wanted(self, step: Step) -> Sequence[Sequence[Tensor]]:
        """The parameters whose weights before the step :meth:`after` needs. Those in one group are kept as one vector."""
        return [[p] for p in step.params]

    def before(self, step: Step) -> None:
        """Called when the gradients of the step are ready, and the weights have not moved yet."""

    @abstractmethod
    def after(self, step: Step) -> None:
        """Called when the weights have moved: write new ones. Every rank calls it, so it may use collectives."""

    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row:
        """The part of a direction that steps may follow. Only restrictions change it."""
        return direction

    def leaves_alone(self, param: Tensor) -> bool:
        """Whether it leaves ``param`` unchanged, bit for bit. Only restrictions may."""
        return False

    def count(self, what: str) -> None:
        """Count a step that was ``taken``, or ``transformed``. Called by the chain."""
        self._steps[what] += 1

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and join the trainer's chain."""
        if stage == "fit":
            self._refuse_strategies(trainer, pl_module)
            # Nothing is left of an earlier fit, or of the run of a tuner.
            self._steps = dict.fromkeys(self._steps, 0)
            self._step_log, self._restored, self._has_started = {}, {}, False
            # In `setup`, which all callbacks have passed before any `on_fit_start` asks who is in the chain.
            StepChain.of(trainer).add(self)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the chain's hook on the optimizer. By now all optimizers exist, the fit's and those of forgetting."""
        self._has_started = True
        refuse_optimizers(trainer, type(self).__name__)
        drop_copies(
            pl_module
        )  # after a sanity check FSDP2 still shows gathered weights, which the optimizer does not have
        chain = StepChain.of(trainer)
        if self.stage != Stage.RESTRICT:  # restrictions hold for every step
            chain.refuse_several_steps(type(self).__name__)
        for optimizer in (trainer.optimizers[0], chain.guarded(trainer.optimizers[0])):
            refuse_two_sets_of_weights(optimizer, type(self).__name__)
        chain.attach(trainer.optimizers[0])

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Report to the chain. Gradients are accumulated, reduced and unscaled here. Overrides must call this last."""
        StepChain.of(trainer).ready(self, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what became of the step."""
        if self._step_log:
            pl_module.log_dict({f"{self.prefix}/{name}": v for name, v in self._step_log.items()}, batch_size=1)
            self._step_log = {}

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prove that every step was transformed."""
        StepChain.close(trainer)
        # Steps that a gradient scaler skipped count in neither.
        if self._steps["transformed"] != self._steps["taken"]:
            raise RuntimeError(
                f"Every optimizer step should be guarded. Found {self._steps['taken']} steps, of which "
                f"{self._steps['transformed']} were: `on_before_optimizer_step` of `{type(self).__name__}` was not called. "
                "Does `optimizer_step` of your module bypass it?"
            )

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        StepChain.close(trainer)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A fit without a single batch calls neither of the two hooks above."""
        if stage == "fit":
            StepChain.close(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state of :meth:`saved`. Before training starts, as when a tuner saves: what a checkpoint has brought."""
        return self.saved() if self._has_started else self._restored

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds: counters. Overrides add to it."""
        return {"steps": dict(self._steps)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the counters. Keep the rest until training starts: the objects it belongs to do not exist yet."""
        self._steps = dict(state_dict["steps"])
        self._restored = state_dict

    def _take_restored(self) -> dict[str, Any]:
        """The state from a checkpoint, only once: a second fit must not start from it again."""
        state, self._restored = self._restored, {}
        return state

    def _refuse_strategies(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        who = type(self).__name__
        refuse_manual_optimization(pl_module, who)
        kind = strategy_kind(trainer)
        if kind == "deepspeed":
            flat = "`'fsdp'`, " if self.works_on_flat_shards else ""
            raise NotImplementedError(
                f"`{who}` should be able to read gradients and write weights. Found `DeepSpeedStrategy`, which keeps both "
                f"inside its engine. Use `strategy='ddp'`, {flat}or `ModelParallelStrategy` (FSDP2)."
            )
        if kind == "fsdp1" and not self.works_on_flat_shards:
            raise NotImplementedError(
                f"`{who}` should see each parameter by itself. Found `FSDPStrategy` (FSDP1), which flattens them. Use "
                "`strategy='ddp'` or `ModelParallelStrategy` (FSDP2)."
            )


class Restriction(StepTransform):
    """Limits steps to a linear space: some parameters, or some inputs of layers.

    Rules seek their corrections among the directions that :meth:`allowed` returns.
    """

    stage: ClassVar[Stage] = Stage.RESTRICT

    @abstractmethod
    @override
    def allowed(self, direction: Row, params: Sequence[Tensor]) -> Row:
        """The part of a direction that steps may follow.

        Args:
            direction: Local shards of a gradient, one tensor for each of ``params``. It is not changed.
            params: The optimizer's parameters.
        """
