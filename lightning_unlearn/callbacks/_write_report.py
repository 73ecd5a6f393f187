from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from typing_extensions import override

from lightning_unlearn.callbacks._apply_edit import ApplyEdit
from lightning_unlearn.checks._records import merged
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.finetuning import FinetuneFirst
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.report import RobustnessReport, add_point, assess, print_table, save
from lightning_unlearn.report.analysis._fit_record import with_fit
from lightning_unlearn.report.render._artifacts import send_artifacts
from lightning_unlearn.runtime import ended_by, exit_as_terminated, writable_folder

_CURVES = ("forget", "retain", "cosine", "forget_norm", "retain_norm", "realised")


class WriteReport(pl.Callback):
    """Write the report, hand it to the trainer's loggers, and show its table in the terminal.

    ``report.html`` is the page, ``report.json`` all that stands behind it, ``scores.jsonl`` the scores of single examples,
    ``model_card.md`` a section for a model's page, ``curves.png`` all plots. W&B and MLflow keep these files, TensorBoard
    the tables as text. They may hold what the model says of what was to be forgotten.

    It is made from the observations of ``RecoveryCheck`` and the log of ``Unlearn``: after ``fit``, of the weights that it
    hands back, and after ``validate`` or ``test`` alone. If an error, Ctrl-C or SIGTERM ends the run before, what was
    observed until then is written, marked as incomplete; after SIGTERM the process exits with 143, not with 0.

    Args:
        folder: Where the files go; it is made if need be.
        notes: Sentences shown among the limits, for a reader who was not there.
        to_loggers: Whether loggers get the report, too.

    Attributes:
        report: The last report that was made, also if it could not be written.

    Raises:
        ValueError: In ``setup``, if there is no :class:`RecoveryCheck` in the trainer.
        OSError: In ``setup``, if the folder cannot be written. If that happens when the report is written, a warning says
            so, and the result of the fit is not lost.
    """

    def __init__(self, folder: str = "runs/report", notes: list[str] | None = None, to_loggers: bool = True) -> None:
        _refuse_settings(folder, notes)
        self.folder = os.path.expanduser(folder)
        self.notes = list(notes or [])
        self.to_loggers = to_loggers
        self.config = ""
        self.training: list[dict[str, float]] = []
        self.report: RobustnessReport | None = None
        self._seconds, self._batches = 0.0, 0
        self._started = time.monotonic()
        self._fit_has_ended = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out now, not after hours of training, whether the folder can be written."""
        self._started = time.monotonic()
        _refuse_nothing_to_report(trainer, stage)
        self._fit_has_ended = False
        if trainer.is_global_zero:
            writable_folder(self.folder)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the curves of another fit."""
        if self.training and self.training[-1]["step"] > trainer.global_step:
            self.training, self._seconds, self._batches = [], 0.0, 0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the training curves, thinned: every checkpoint carries them."""
        self._batches += 1
        # Once per optimizer step: with accumulated gradients several batches make one, and nothing is logged before.
        values = {name: trainer.callback_metrics.get(f"unlearn/{name}") for name in _CURVES}
        if values["forget"] is not None and (not self.training or self.training[-1]["step"] < trainer.global_step):
            row = {name: float(value) for name, value in values.items() if value is not None}
            add_point(self.training, {"step": trainer.global_step, **row})

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
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what was observed so far, marked as incomplete."""
        exit_as_terminated(exception)
        try:
            self._write(trainer, pl_module, interrupted=ended_by(exception))
        except Exception as error:  # the one to be seen is that which ended the run
            rank_zero_warn(f"The report of what was observed so far was not written: {type(error).__name__}: {error}")

    @override
    def state_dict(self) -> dict[str, Any]:
        """The curves so far, and how long they took."""
        seconds = self._seconds + time.monotonic() - self._started
        return {"training": list(self.training), "seconds": seconds, "batches": self._batches}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curves of the interrupted run back."""
        self.training, self._seconds = list(state_dict["training"]), state_dict["seconds"]
        self._batches = state_dict["batches"]
        self._started = time.monotonic()

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, **about_run: str) -> None:
        checks = callbacks_of(trainer, RecoveryCheck)
        observations = merged((), [observation for check in checks for observation in check.observations])
        failures = [failure for check in checks for failure in check.failures]
        if not trainer.is_global_zero or not (observations or failures):
            return
        last = max([o.step for o in observations] + [failure.step for failure in failures])
        report = assess(
            observations,
            run={**self._run(trainer, last), **about_run},
            models={"student": {"class": _network_name(pl_module), "n_params": _count(pl_module)}},
            data={name: about for check in checks for name, about in check.about_data().items()},
            training=self.training,
            config=self.config,
            failures=failures,
            restored=None if any(c.restored is None for c in checks) else all(c.restored for c in checks),
            definitions={name: words for c in checks for name, words in c.definitions().items()},
        )
        edits = [type(callback.edit).__name__ for callback in callbacks_of(trainer, ApplyEdit)]
        self.report = with_fit(report, trainer, self._budget(trainer, last), edits)
        self._save(trainer)
        print_table(self.report, Console(), page=Path(self.folder) / "report.html")

    def _save(self, trainer: pl.Trainer) -> None:
        assert self.report is not None
        try:
            save(self.report, self.folder)
            if self.to_loggers and "interrupted" not in self.report.run:  # who is told to end has no time for uploads
                send_artifacts(trainer.loggers, self.report, Path(self.folder))
        except OSError as error:
            rank_zero_warn(
                f"The report should be written to `{self.folder}`. Found: {error}. It is kept as the `report` of this "
                "`WriteReport`. Make room, then `lightning_unlearn.report.save(callback.report, folder)`; or resume from "
                "the last checkpoint, which makes it again."
            )

    def _budget(self, trainer: pl.Trainer, step: int) -> dict[str, float]:
        """What the fit spent; of a run that only looked, nothing."""
        batches = {"retain_batches": float(self._batches)} if self._batches else {}
        seconds = {"fit_and_checks_s": self._spent()} if step else {}
        return {"steps": float(step), "epochs": float(trainer.current_epoch), **batches, **seconds}

    def _spent(self) -> float:
        return round(self._seconds + time.monotonic() - self._started, 1)

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
            "wall_s": self._spent(),
            "notes": [*([note] if taught else []), *self.notes],
        }


def _refuse_settings(folder: Any, notes: Any) -> None:
    """Refuse arguments of `WriteReport` that are of the wrong kind."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise TypeError(f"`folder` should be the path of a folder. Found `folder = {folder!r}`.")
    if isinstance(notes, str) or not all(isinstance(note, str) for note in notes or ()):
        raise TypeError(f"`notes` should be a list of sentences, such as `['Half of the data.']`. Found `{notes!r}`.")


def _refuse_nothing_to_report(trainer: pl.Trainer, stage: str) -> None:
    """Refuse to write a report of a trainer without a check: there would be nothing in it."""
    if stage in ("fit", "validate", "test") and not callbacks_of(trainer, RecoveryCheck):
        raise ValueError(
            "`WriteReport` should find a `RecoveryCheck` among the callbacks: a report is made of what it observes. Found "
            'none. Add `RecoveryCheck({"int4": Quantize(bits=4)})`, in YAML `recovery: {}`, or leave the report out.'
        )


def _network_name(module: pl.LightningModule) -> str:
    return type(getattr(module, "network", module)).__name__


def _count(module: pl.LightningModule) -> int:
    return sum(p.numel() for p in module.parameters())
