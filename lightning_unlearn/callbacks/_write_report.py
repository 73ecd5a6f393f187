from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from typing_extensions import override

from lightning_unlearn.checks._records import merged
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.finetuning import FinetuneFirst
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.report import RobustnessReport, assess, print_table, save
from lightning_unlearn.runtime import writable_folder

_CURVES = ("forget", "retain", "cosine", "forget_norm", "retain_norm", "realised")


class WriteReport(pl.Callback):
    """Write the report, ``report.json``, ``report.html`` and ``curves.png``, and show its table in the terminal.

    It is made from the observations of ``RecoveryCheck`` and the log of ``Unlearn``: after ``fit``, of the weights that it
    hands back, and after ``validate`` or ``test`` alone.

    Args:
        folder: Where the files go; it is made if need be.
        notes: Sentences shown among the limits, for a reader who was not there.

    Attributes:
        report: The last report that was made, also if it could not be written.

    Raises:
        OSError: In ``setup``, if the folder cannot be written. If that happens when the report is written, a warning says
            so, and the result of the fit is not lost.
    """

    def __init__(self, folder: str = "runs/report", notes: list[str] | None = None) -> None:
        self.folder = folder
        self.notes = list(notes or [])
        self.config = ""
        self.training: list[dict[str, float]] = []
        self.report: RobustnessReport | None = None
        self._seconds = 0.0
        self._started = time.monotonic()
        self._fit_has_ended = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out now, not after hours of training, whether the folder can be written."""
        self._started = time.monotonic()
        self._fit_has_ended = False
        if trainer.is_global_zero:
            writable_folder(self.folder)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the curves of another fit."""
        if self.training and self.training[-1]["step"] > trainer.global_step:
            self.training, self._seconds = [], 0.0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the training curves."""
        # Once per optimizer step: with accumulated gradients several batches make one, and nothing is logged before.
        values = {name: trainer.callback_metrics.get(f"unlearn/{name}") for name in _CURVES}
        if values["forget"] is not None and (not self.training or self.training[-1]["step"] < trainer.global_step):
            row = {name: float(value) for name, value in values.items() if value is not None}
            self.training.append({"step": trainer.global_step, **row})

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that the fit came to its end: ``Tuner`` tears down fits that did not run."""
        self._fit_has_ended = True

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write, once every other ``on_fit_end`` has done to the weights what it does."""
        if not self._fit_has_ended:
            return
        self._fit_has_ended = False
        for check in callbacks_of(trainer, RecoveryCheck):  # a check that is behind this callback would come too late
            check.check_final(trainer, pl_module)
        self._write(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:  # a fit's own validation is not its end
            self._write(trainer, pl_module)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write."""
        self._write(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The curves so far, and how long they took."""
        return {"training": list(self.training), "seconds": self._seconds + time.monotonic() - self._started}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curves of the interrupted run back."""
        self.training, self._seconds = list(state_dict["training"]), state_dict["seconds"]
        self._started = time.monotonic()

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        checks = callbacks_of(trainer, RecoveryCheck)
        observations = merged((), [observation for check in checks for observation in check.observations])
        if not trainer.is_global_zero or not observations:
            return
        self.report = assess(
            observations,
            run=self._run(trainer, max(observation.step for observation in observations)),
            models={"student": {"class": _network_name(pl_module), "n_params": _count(pl_module)}},
            data={name: about for check in checks for name, about in check.about_data().items()},
            training=self.training,
            config=self.config,
            restored=None if any(c.restored is None for c in checks) else all(c.restored for c in checks),
            definitions={name: words for c in checks for name, words in c.definitions().items()},
        )
        try:
            save(self.report, self.folder)
        except OSError as error:
            rank_zero_warn(
                f"The report should be written to `{self.folder}`. Found: {error}. It is kept as the `report` of this "
                "`WriteReport`. Make room, then `lightning_unlearn.report.save(callback.report, folder)`; or resume from "
                "the last checkpoint, which makes it again."
            )
        print_table(self.report, Console(), page=Path(self.folder) / "report.html")

    def _run(self, trainer: pl.Trainer, step: int) -> dict[str, Any]:
        taught = bool(callbacks_of(trainer, FinetuneFirst))
        objectives = [repr(c.objective) for c in callbacks_of(trainer, Unlearn)]
        note = "The model was taught the facts in this same run, so that there was something to forget."
        controls = [c.control_source for c in callbacks_of(trainer, RecoveryCheck) if c.control_source is not None]
        return {
            **({"control": controls[0]} if controls else {}),
            "objective": ", ".join(objectives),
            "strategy": type(trainer.strategy).__name__,
            "world_size": trainer.world_size,
            "precision": str(trainer.precision),
            "device": str(trainer.strategy.root_device),
            "steps": step,
            "wall_s": round(self._seconds + time.monotonic() - self._started, 1),
            "notes": [*([note] if taught else []), *self.notes],
        }


def _network_name(module: pl.LightningModule) -> str:
    return type(getattr(module, "network", module)).__name__


def _count(module: pl.LightningModule) -> int:
    return sum(p.numel() for p in module.parameters())
