from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.data import DataSource, loader_of
from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.forgetting import Unlearn


class StepCorrector(pl.Callback):
    """What callbacks have in common that correct each optimizer step: hooks, counters, a log, and something to protect.

    Attributes:
        prefix: Of the names in the log.
    """

    prefix: ClassVar[str]

    def __init__(self, retain: DataSource | None) -> None:
        self.retain = retain
        self._loader: Iterable[Any] = ()
        self._steps = {"taken": 0, "guarded": 0}
        self._step_log: dict[str, float] = {}
        self._handles: list[Any] = []
        self._has_warned = False

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
        """Prove that every step was guarded."""
        self._detach_hooks()
        if self._steps["guarded"] != self._steps["taken"]:
            raise RuntimeError(
                f"Every optimizer step should be guarded. Found {self._steps['taken']} steps, of which "
                f"{self._steps['guarded']} were: `on_before_optimizer_step` was not called. Does `optimizer_step` of your "
                "module bypass it?"
            )

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._detach_hooks()

    def _find_retain(self, trainer: pl.Trainer) -> None:
        if self.retain is not None:
            self._loader = loader_of(self.retain, "retain", trainer)
        elif not callbacks_of(trainer, Unlearn):
            name = type(self).__name__
            raise ValueError(
                f"`{name}` should find what to protect. Found neither `Unlearn`, beside which the fit's own data is what "
                f"must stay, nor `retain`. Use `{name}(retain=...)`."
            )

    def _detach_hooks(self) -> None:
        while self._handles:
            self._handles.pop().remove()
