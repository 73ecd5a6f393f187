"""Who reads the values of a check during a fit, and when: the check has to be made right before."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.checks._worst import WORST
from lightning_unlearn.observation import NOT_ATTACKED


class Monitors:
    """Callbacks and schedulers of a fit that monitor ``recovery/<attack>/...``, or ``recovery/worst``.

    When ``ModelCheckpoint`` and ``EarlyStopping`` read is known from their settings. Any other callback with an attribute
    ``monitor`` is expected to read after each validation and after each epoch.

    Args:
        trainer: The trainer of the fit.
        attacks: The attacks whose values are meant.
        told: Keys that another check tells.
    """

    def __init__(self, trainer: pl.Trainer, attacks: Collection[str], told: Collection[str] = ()) -> None:
        self.trainer, self.told = trainer, told
        self.beginnings = tuple(f"recovery/{attack}/" for attack in (NOT_ATTACKED, *attacks))
        self.whole = {WORST} if attacks else set()
        self.callbacks = [c for c in trainer.callbacks if self._is_ours(getattr(c, "monitor", None))]  # type: ignore[attr-defined]
        self.schedulers = [c for c in trainer.lr_scheduler_configs if c.reduce_on_plateau and self._is_ours(c.monitor)]

    def read_after_step(self, batch_idx: int) -> bool:
        """Whether one reads after the optimizer step that was just taken, at the end of its batch."""
        step = self.trainer.global_step
        lengths = [getattr(c, "_every_n_train_steps", 0) for c in self.callbacks]
        return (
            any(n >= 1 and step % n == 0 for n in lengths)
            or any(self._time_is_up(c) for c in self.callbacks)
            or any(c.interval == "step" and (batch_idx + 1) % c.frequency == 0 for c in self.schedulers)
        )

    def read_after_validation(self) -> bool:
        """Whether one reads at the end of the validation that is running."""
        return any(
            getattr(c, "_defer_save_until_validation", False)  # saves now what was due after the step
            or (self._epoch_is_due(c) and not _waits_for_epoch_end(c, self.trainer, otherwise=False))
            for c in self.callbacks
        )

    def read_after_epoch(self) -> bool:
        """Whether one reads at the end of the epoch."""
        return any(
            self._epoch_is_due(c) and _waits_for_epoch_end(c, self.trainer, otherwise=True) for c in self.callbacks
        ) or any(c.interval == "epoch" and (self.trainer.current_epoch + 1) % c.frequency == 0 for c in self.schedulers)

    def _is_ours(self, key: Any) -> bool:
        is_key = isinstance(key, str) and key not in self.told
        return is_key and (key in self.whole or key.startswith(self.beginnings))

    def _epoch_is_due(self, callback: Any) -> bool:
        length: int = getattr(callback, "_every_n_epochs", 1)
        return length >= 1 and (self.trainer.current_epoch + 1) % length == 0

    def _time_is_up(self, callback: Any) -> bool:
        interval, last = getattr(callback, "_train_time_interval", None), getattr(callback, "_last_time_checked", None)
        if interval is None:
            return False
        # As in `ModelCheckpoint`: the first process decides, or the others would wait for a check that it does not make.
        is_up = last is not None and time.monotonic() - last >= interval.total_seconds()
        return bool(self.trainer.strategy.broadcast(is_up))


def _waits_for_epoch_end(callback: Any, trainer: pl.Trainer, *, otherwise: bool) -> bool:
    """Whether a callback reads at the end of the epoch, and not of the validation; ``otherwise`` if that is unknown."""
    if hasattr(callback, "_should_save_on_train_epoch_end"):  # `ModelCheckpoint`
        return bool(callback._should_save_on_train_epoch_end(trainer))
    return bool(getattr(callback, "_check_on_train_epoch_end", otherwise))  # `EarlyStopping`
