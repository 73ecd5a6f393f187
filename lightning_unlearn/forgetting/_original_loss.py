from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, before_restore, strategy_kind
from lightning_unlearn.forgetting._forget_loss import ForgetLoss
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference


class OriginalLoss:
    """The forget loss of one fit, made while the network is the original.

    When that is depends on whether the fit is new, which is not known before a checkpoint is read::

        setup                  made for the first time, to refuse what cannot work
        right before restore   made again: an interrupted fit that goes on has its original here, and only here
        the first batch        a new fit makes it again: weights may have come from a checkpoint of any origin, and from
                               any hook

    Strategies that shard restore after ``on_fit_start``: there it is made in that hook, whose weights are sharded already.

    Args:
        objective: The objective that forgetting minimises.
        readout: How to run the network; ``None`` for what fits the module.
        reference: Gives the original model's outputs; ``None`` for the cheapest that suffices.
        trainer: Of the fit, in ``setup``.
        module: The module of the fit.

    Attributes:
        is_known: Whether the original was seen: at the first batch, or, in a resumed fit, before the interruption.
    """

    def __init__(
        self,
        objective: Objective,
        readout: Readout | None,
        reference: Reference | None,
        trainer: pl.Trainer,
        module: pl.LightningModule,
    ) -> None:
        self._parts = (objective, module, readout, reference, strategy_kind(trainer))
        self.is_known = False
        self._loss: ForgetLoss | None = None
        self._watch: Any = None
        if reference is not None:
            reference.start_anew()
        if trainer.strategy.restore_checkpoint_after_setup:
            return
        # A module that is built in `configure_model` has no weights yet.
        if any(True for _ in module.parameters()):
            self._attach()
        self._watch = before_restore(trainer, module, self._attach)

    @property
    def loss(self) -> ForgetLoss:
        """The loss."""
        assert self._loss is not None, "the fit has started"
        return self._loss

    def start(self) -> None:
        """The fit starts: weights exist, sharded ones too."""
        self.end_watch()
        if self._loss is None:
            self._attach()

    def see(self, engine: GradientEngine, stream: ForgetStream) -> None:
        """Take the network, as it is now, for the original, unless it is known. Collective: every rank must call it."""
        if not self.is_known:
            self._attach()
            self.loss.sweep(engine, stream)
            self.is_known = True

    def end_watch(self) -> None:
        """Leave no hook on the module."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _attach(self) -> None:
        earlier = None if self._loss is None else self._loss.reference
        self._loss = ForgetLoss(*self._parts, earlier=earlier)
