"""How long a fit will still take, its checks included."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable

import lightning.pytorch as pl

from lightning_unlearn.checks._planned import (
    last_step,
    planned_looks,
    seconds_at_start,
    seconds_of_a_look,
    steps_per_epoch,
)
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.engine import callbacks_of


class TimeLeft:
    """Steps at the pace of steps, looks at the pace of looks.

    Args:
        trainer: Whose training starts now.
        clock: Seconds since any moment.
    """

    def __init__(self, trainer: pl.Trainer, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._first = clock, clock(), trainer.global_step
        self.total = last_step(trainer)
        self._checks = callbacks_of(trainer, RecoveryCheck)
        self._before = [seconds_at_start(check.costs) for check in self._checks]
        per_epoch, total = steps_per_epoch(trainer), self.total or 0
        self._planned = [sorted(planned_looks(check, per_epoch, total)) for check in self._checks]
        self._seen: tuple[float, float] | None = None

    def after_step(self, step: int) -> None:
        """Forecast anew: ``step`` steps were taken."""
        if self.total is None or step <= self._first:
            return
        now = self._clock()
        at_start, made, to_come = self._looks(step)
        pace = max(0.0, now - self._started - at_start - made) / (step - self._first)
        self._seen = now, pace * max(0, self.total - step) + to_come

    def now(self) -> float | None:
        """Seconds that are left; ``None`` if nobody knows."""
        # During a look the forecast of the last step holds, less what has passed since.
        return None if self._seen is None else max(0.0, self._seen[1] - (self._clock() - self._seen[0]))

    def _looks(self, step: int) -> tuple[float, float, float]:
        """Seconds of the looks at original and control, of those that were planned and made, and of those to come."""
        at_start = made = to_come = 0.0
        for check, before, planned in zip(self._checks, self._before, self._planned, strict=True):
            price = seconds_of_a_look(check.costs)
            at_start += seconds_at_start(check.costs) - before
            before_now = bisect_right(planned, step)
            pending = planned[before_now - 1 : before_now] == [step] and check.last_look.step < step
            made += price * (before_now - bisect_right(planned, self._first) - pending)
            to_come += price * (len(planned) - before_now + pending)
        return at_start, made, to_come
