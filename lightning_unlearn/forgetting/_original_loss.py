from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import lightning.pytorch as pl
from torch import nn

from lightning_unlearn.attacks import Attack
from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, before_restore, decided_readout, strategy_kind
from lightning_unlearn.forgetting._forget_loss import ForgetLoss
from lightning_unlearn.forgetting._shown_original import ShownOriginal
from lightning_unlearn.models import loads_low_bit
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout, choose_readout
from lightning_unlearn.references import CachedLogLikelihood, FrozenCopy, Reference


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
        attacks: Those of the fit, which are shown the original, too.

    Attributes:
        is_known: Whether the original was seen: at the first batch, or, in a resumed fit, before the interruption.
        shown: Shows it to the attacks.
    """

    def __init__(
        self,
        objective: Objective,
        readout: Readout | None,
        reference: Reference | None,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        attacks: Collection[Attack] = (),
    ) -> None:
        self.shown = ShownOriginal(attacks)
        self.shown.setup(trainer, module)
        self._objective, self._reference, self._given = objective, reference, readout
        self._trainer, self._module = trainer, module
        self._readout: Readout | None = readout
        self.is_known = False
        self._loss: ForgetLoss | None = None
        self._copy: FrozenCopy | None = None
        self._watches: list[Any] = []
        if reference is not None:
            reference.start_anew()
        if trainer.strategy.restore_checkpoint_after_setup:
            return
        # A module that is built in `configure_model` has no weights yet.
        if any(True for _ in module.parameters()):
            self._attach()
        # The first sees the module before the second has it loaded.
        self._watches = [before_restore(trainer, module, self._attach), loads_low_bit(module)]

    @property
    def loss(self) -> ForgetLoss:
        """The loss."""
        assert self._loss is not None, "the fit has started"
        return self._loss

    def start(self) -> None:
        """The fit starts: weights exist, sharded ones too."""
        self.end_watch()
        self.shown.start(self._trainer, self._module)
        if self._loss is None:
            self._attach()

    def decide(self, forget: Iterable[Any], *, resumes: bool) -> Readout:
        """Decide how the network is read, now that it can be run. Collective: every rank must call it.

        Args:
            forget: The forget loader: the decision is made on it if no training batch can be had.
            resumes: Whether the network has moved away from the original already.
        """
        guess = self.loss.readout
        self._readout = decided_readout(self._trainer, self._module, self._given, lambda: forget)
        self._objective.refuse_without_logits(self._readout)
        if resumes:  # a new fit makes its loss at the first batch
            copy = self._copy if guess.gives_logits and not self._readout.gives_logits else None
            self.loss.read_anew(self._readout, copy)
        self._copy = None
        return self._readout

    def see(self, engine: GradientEngine, stream: ForgetStream) -> None:
        """Take the network, as it is now, for the original, unless it is known. Collective: every rank must call it."""
        if not self.is_known:
            self._attach()
            self.shown.before_first_step(self._trainer, self._module)
            self.loss.sweep(engine, stream)
            self.is_known = True

    def join(self) -> None:
        """A step is next that does not ask for the original."""
        if self.loss.reference is not None:
            self.loss.reference.join()

    def keep(self, parameter: nn.Parameter) -> None:
        """An edit is about to change ``parameter``."""
        if self.loss.reference is not None:
            self.loss.reference.keep(parameter)

    def end_watch(self) -> None:
        """Leave no hook on the module."""
        self.shown.end_watch()
        for watch in self._watches:
            watch.remove()
        self._watches = []

    def _attach(self) -> None:
        earlier = None if self._loss is None else self._loss.reference
        readout = choose_readout(self._module) if self._readout is None else self._readout
        kind = strategy_kind(self._trainer)
        self._loss = ForgetLoss(self._objective, self._module, readout, self._reference, kind, earlier=earlier)
        self._copy = self._copied(self._loss, kind)

    def _copied(self, loss: ForgetLoss, kind: str) -> FrozenCopy | None:
        """A copy of the module that may be about to be restored, if its loss may turn out to need one.

        The readout is decided on when training starts. If it is not the one that was guessed, a cache does not serve, and
        a copy of what the guess would have run is not enough. Then it is too late to copy the original.
        """
        reference, is_decided = loss.reference, self._readout is not None
        kinds = (FrozenCopy,) if self._reference is not None else (FrozenCopy, CachedLogLikelihood)
        may_be_needed = isinstance(reference, kinds) and not is_decided
        if not may_be_needed or self._trainer.ckpt_path is None or kind == "fsdp1" or not loss.readout.gives_logits:
            return None
        copy = FrozenCopy(on_cpu=True)
        copy.attach(self._module)
        return copy
