from __future__ import annotations

from collections.abc import Collection
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.attacks import Attack, KnowsOriginal
from lightning_unlearn.audits import Audit
from lightning_unlearn.engine import before_restore
from lightning_unlearn.runtime import on_every_rank


class ShownOriginal:
    """Shows attacks and audits the original of a fit: those that move back towards it, or compare with it.

    When that is depends on whether the fit is new, which is not known before a checkpoint is read::

        right before restore   an interrupted fit that goes on has its original here, and only here
        before the first step  a new fit shows it again: weights may have come from any hook, or from a checkpoint that was
                               made without us
        when training starts   in a resumed fit: by hashes in the checkpoint it is known whether that was the original

    Strategies that shard restore after ``on_fit_start``: there it is shown in that hook.

    Args:
        parts: The attacks and audits to show it to.

    Attributes:
        goes_on: Whether the fit that was set up last goes on from the state of an interrupted one.
    """

    def __init__(self, parts: Collection[Attack | Audit]) -> None:
        unmoved = (Attack.see_original, Audit.see_original)
        self._parts = [part for part in parts if type(part).see_original not in unmoved]
        self._watch: Any = None
        self._hashes: list[dict[str, int]] = []
        self.goes_on = self._is_resumed = False

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A fit is set up."""
        self.end_watch()
        self.goes_on = False
        if self._parts and not trainer.strategy.restore_checkpoint_after_setup:
            self._watch = before_restore(trainer, module, lambda: self._show(module))

    def start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A fit starts: weights exist, sharded ones too."""
        self.end_watch()
        if trainer.strategy.restore_checkpoint_after_setup:
            self._show(module)

    def before_first_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The first step, or an edit, is next. In an interrupted fit the network has moved already. Collective."""
        if trainer.global_step == 0 or not self.goes_on:
            self._show(module)
            self._hashes = self._hashes_on_every_rank()

    def training_starts(self) -> None:
        """Let them forget what they were shown in a resumed fit, if it was not the original. Collective."""
        if self._is_resumed:
            self._is_resumed = False
            now = self._hashes_on_every_rank()
            # Shards that are cut in another way cannot be compared.
            if len(now) == len(self._hashes) and now != self._hashes:
                for part in self._knowing():
                    part.forget_original()

    def state_dict(self) -> list[dict[str, int]]:
        """Hashes of the original, by rank."""
        return self._hashes

    def load_state_dict(self, state: list[dict[str, int]]) -> None:
        """Hashes of the original of an interrupted fit, which goes on."""
        self._hashes, self._is_resumed, self.goes_on = state, bool(state), True

    def end_watch(self) -> None:
        """Leave no hook on the module."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _knowing(self) -> list[KnowsOriginal]:
        return [part for part in self._parts if isinstance(part, KnowsOriginal)]

    def _hashes_on_every_rank(self) -> list[dict[str, int]]:
        # All were shown the same, but for those that have a path.
        shown = [hashes for part in self._knowing() if (hashes := part.hashes())]
        return on_every_rank(shown[0]) if shown else []

    def _show(self, module: pl.LightningModule) -> None:
        first: KnowsOriginal | None = None
        inherited: Any = KnowsOriginal.see_original
        for part in self._parts:
            # A class with a way of its own to look has it called.
            knowing = part if isinstance(part, KnowsOriginal) and type(part).see_original is inherited else None
            if first is not None and knowing is not None:
                knowing.share_original(first)
                continue
            part.see_original(module)
            if knowing is not None and knowing.original is None:
                first = knowing
