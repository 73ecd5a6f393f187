from __future__ import annotations

from collections.abc import Collection
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.attacks import Attack
from lightning_unlearn.engine import before_restore


class ShownOriginal:
    """Shows attacks the original of a fit: those that move back towards it, in checks.

    When that is depends on whether the fit is new, which is not known before a checkpoint is read::

        right before restore   an interrupted fit that goes on has its original here, and only here
        before the first step  a new fit shows it again: weights may have come from any hook

    Strategies that shard restore after ``on_fit_start``: there it is shown in that hook.

    Args:
        attacks: The attacks to show it to.
    """

    def __init__(self, attacks: Collection[Attack]) -> None:
        self._attacks = [a for a in attacks if type(a).see_original is not Attack.see_original]
        self._watch: Any = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A fit is set up."""
        self.end_watch()
        if self._attacks and not trainer.strategy.restore_checkpoint_after_setup:
            self._watch = before_restore(trainer, module, lambda: self._show(module))

    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A fit starts: weights exist, sharded ones too."""
        self.end_watch()
        if trainer.strategy.restore_checkpoint_after_setup:
            self._show(module)

    def before_first_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The first step, or an edit, is next. In a resumed fit the network has moved already."""
        if trainer.global_step == 0:
            self._show(module)

    def end_watch(self) -> None:
        """Leave no hook on the module."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _show(self, module: pl.LightningModule) -> None:
        for attack in self._attacks:
            attack.see_original(module)
