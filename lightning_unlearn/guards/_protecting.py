from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.data import DataSource, ForgetStream, loader_of
from lightning_unlearn.engine import GradientEngine, refuse_sparse_gradients
from lightning_unlearn.guards._layout import added_since
from lightning_unlearn.guards._refusals import refuse_nothing_to_protect
from lightning_unlearn.guards.directions import Direction, Directions
from lightning_unlearn.guards.sources import choose_source
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.objectives import CrossEntropy, Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.runtime import data_share
from lightning_unlearn.transforms import StepChain, StepTransform


class Protecting(StepTransform):
    """A transform of the step that needs the gradients of what must stay, at the weights before the step.

    Args:
        directions: Of which losses.
        storage: How they are kept.
        retain: What must stay; ``None`` for what the fit trains on.
        objective: The loss on ``retain``; ``None`` for cross-entropy.
        readout: How to run the network on ``retain``; ``None`` for what fits the module.
        seed: Seed of the order of ``retain``.
    """

    def __init__(
        self,
        directions: Directions,
        storage: Storage,
        *,
        retain: DataSource | None,
        objective: Objective | None,
        readout: Readout | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.directions = directions
        self.storage = storage
        self.retain = retain
        self.objective = CrossEntropy() if objective is None else objective
        self.readout = readout
        self.seed = seed
        self._new: Sequence[Direction] = []

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, and find the data."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._loader = () if self.retain is None else loader_of(self.retain, "retain", trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what other callbacks rule out: all of them joined the chain in ``setup``, so they are known now."""
        super().on_fit_start(trainer, pl_module)
        refuse_nothing_to_protect(trainer, self.retain, type(self).__name__)
        refuse_sparse_gradients(pl_module, type(self).__name__)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the optimizer to guard, and continue where a checkpoint left off."""
        super().on_train_start(trainer, pl_module)
        # Not in `on_fit_start`: an `Unlearn` later in the list makes its own optimizer there.
        self._guarded = StepChain.of(trainer).guarded(trainer.optimizers[0])
        self._refuse_optimizer(self._guarded)
        self._engine = GradientEngine(pl_module, trainer)
        # Parameters that are frozen now may be unfrozen later: the numbers that directions go by must not shift.
        self._params = [p for g in self._guarded.param_groups for p in g["params"]]
        self._new = []
        parts = (self.directions, self.storage, self.objective, self.readout, self._retain_stream(trainer))
        self._source = choose_source(self._engine, self._params, *parts)
        self._resume(self._take_restored())

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the micro-batch, or keep it for the gradients of its examples."""
        self._source.saw_batch(batch)

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the fit's own gradient before anybody adds to it."""
        self._cover_added()
        # In this hook and not in `on_before_optimizer_step`: there an `Unlearn` earlier in the list has merged already.
        # Lightning has no public way to ask whether this is the last micro-batch of the step.
        self._source.after_backward(is_last=not trainer.fit_loop._should_accumulate())

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Collect the directions of this step."""
        self._cover_added()
        # Every rank takes part: sources run passes and collectives. A step that a gradient scaler skipped never reached
        # `after`: its directions are dropped here.
        self._new = self._source.take()
        super().on_before_optimizer_step(trainer, pl_module, optimizer)  # last: it may start the step and call `before`

    @override
    def saved(self) -> dict[str, Any]:
        """Counters, and the position in ``retain``."""
        return {**super().saved(), "position": self._source.position}

    def _refuse_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Called with the optimizer whose steps are transformed."""

    def _covered(self, params: Sequence[Tensor]) -> None:
        """Called when parameters were added during the fit, ``params`` being all of them."""

    def _resume(self, state: dict[str, Any]) -> None:
        """Called when training starts. ``state`` is what a checkpoint has brought, or empty."""
        if state:
            self._source.seek(state["position"])

    def _retain_stream(self, trainer: pl.Trainer) -> ForgetStream | None:
        if self.retain is None:
            return None
        rank, world_size = data_share(trainer)
        return ForgetStream(self._loader, seed=self.seed, rank=rank, world_size=world_size, name="retain")

    def _cover_added(self) -> None:
        """Guard parameter groups that were added to the optimizer, as ``BaseFinetuning`` does when it unfreezes layers."""
        if (params := added_since(self._guarded, self._params, type(self).__name__)) is not None:
            self._params = params
            self._source.cover(params)
            self._covered(params)
