from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from typing_extensions import override

from lightning_unlearn.checks._looks import is_averaging, on_its_device
from lightning_unlearn.checks._probes import training_loader
from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.edits import Edit, EditRecord
from lightning_unlearn.engine import (
    GradientEngine,
    before_restore,
    decided_readout,
    isolated_but_for_weights,
    keep_original,
    show_original,
    strategy_kind,
)
from lightning_unlearn.forgetting import forget_source
from lightning_unlearn.readouts import Readout, choose_readout


class ApplyEdit(pl.Callback):
    """Edit the network once in a fit, when it begins or when it ends.

    At the start, it happens in the first epoch, after every other callback has seen the original: :class:`RecoveryCheck`
    observes it at step 0, the reference of :class:`Unlearn` is the original, and :class:`SubspaceGuard` protects the inputs
    that layers had before the edit. The place of this callback in the list does not matter.

    At the end, it happens in ``on_train_end``, after the last step: the last check, the report and :class:`SavePretrained`
    see the edited network. Guards of the fit hold for its steps, and not for this edit; a :class:`DisruptionBudget` measures
    it, and takes it back if it costs too much. What
    ``ModelCheckpoint`` wrote in training holds the weights before the edit, so that a fit goes on from them;
    ``trainer.save_checkpoint`` after the fit keeps the edited ones.

    Random generators, buffers, gradients and modes are left as they were. A fit that is resumed from a checkpoint of edited
    weights does not edit again, also if it takes more steps; a second ``fit`` does. A resumed fit that has no step left to
    take edits in ``on_fit_end``: put this callback before others than :class:`SavePretrained` that save then.

    To edit without training, use ``Trainer(max_steps=0)``: the network is edited when that fit starts. Lightning then calls
    no hook of training, so no check runs. To see the effect, call ``trainer.validate`` with a :class:`RecoveryCheck` before
    and after. In a script, ``edit(network)`` does the same.

    Args:
        edit: What is done.
        forget: What must go, if the edit needs it. Defaults to ``forget_dataloader`` of the trainer's datamodule.
        retain: What must stay, if the edit needs it. Defaults to what the fit trains on.
        readout: How to run the network, if the edit needs data. Defaults to what fits the module, as in :class:`Unlearn`.
        when: ``"start"`` or ``"end"`` of the fit.

    Raises:
        NotImplementedError: In ``setup``, under FSDP1 or DeepSpeed.
        ValueError: In ``setup``, if the edit needs forget data, and there is none; or if it comes at the end, and a callback
            behind it would put averaged weights in the place of the edited ones. When it edits at the start, if it changes
            the base of an adapter that :class:`AdapterDisabled` switches off to see the original.

    Example:
        >>> from lightning_unlearn.edits import NegateTaskVector
        >>> callback = ApplyEdit(NegateTaskVector(base="before.safetensors"))  # Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        edit: Edit,
        forget: DataSource | None = None,
        retain: DataSource | None = None,
        readout: Readout | None = None,
        when: Literal["start", "end"] = "start",
    ) -> None:
        if not isinstance(edit, Edit):
            raise TypeError(f"`edit` should be an `Edit`, such as `NegateTaskVector(base=...)`. Found `{edit!r}`.")
        if when not in ("start", "end"):
            raise ValueError(f'`when` should be "start" or "end". Found `when = {when!r}`.')
        self.edit, self.when = edit, when
        self.forget, self.retain, self.readout = forget, retain, readout
        self.record: EditRecord | None = None
        self._knows_original = False
        self._watch: Any = None

    @property
    def changes_weights_at_end(self) -> bool:
        """Whether an edit is to come in ``on_train_end``: a check of the final weights waits for it."""
        return self.when == "end" and self.record is None

    @property
    def state_key(self) -> str:
        """Includes the settings: Lightning refuses several stateful callbacks of one class with the same key."""
        return f"ApplyEdit[{type(self.edit).__name__}, {sorted(self.edit.settings().items())}, {self.when}]"

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be edited, and find the data."""
        if stage != "fit":
            return
        if (kind := strategy_kind(trainer)) in ("fsdp1", "deepspeed"):
            found = {"fsdp1": "`FSDPStrategy` (FSDP1), which flattens", "deepspeed": "`DeepSpeedStrategy`, which keeps"}
            raise NotImplementedError(
                f"`ApplyEdit` should find the parameters as they are. Found {found[kind]} them. Use `strategy='ddp'`, "
                "`ModelParallelStrategy` (FSDP2), or edit and save the network before the fit."
            )
        if self.when == "end":
            self._refuse_averages_behind(trainer)
        self.record, self._knows_original = None, False  # a checkpoint is restored after `setup`, and brings its record
        self._forget = forget_source(trainer, self.forget, "ApplyEdit")[0] if self.edit.needs_forget else None
        self._retain = loader_of(self.retain, "retain", trainer) if self.retain is not None else None
        self._end_watch()
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._watch = before_restore(trainer, pl_module, lambda: self._see_original(pl_module))

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Edit now if there will be no step: Lightning then calls none of the hooks of training."""
        self._end_watch()
        if trainer.strategy.restore_checkpoint_after_setup:  # strategies that shard restore after this hook
            self._see_original(pl_module)
        if self.record is None and (trainer.max_steps == 0 or trainer.max_epochs == 0):
            if not self._knows_original:
                self._see_original(pl_module)
            self._apply(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See the original, and edit in the first epoch, once all callbacks have seen it."""
        if not self._knows_original:  # weights may have come from anywhere until now
            self._see_original(pl_module)
            self._knows_original = True
        if self.when == "start" and self.record is None:
            show_original(trainer, pl_module)
            self._apply(trainer, pl_module, before_write=partial(keep_original, trainer, pl_module))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Edit after the last step."""
        if self.changes_weights_at_end:
            self._apply(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Edit after a resumed fit that had no step left to take: none of the hooks of training was called."""
        if self.changes_weights_at_end:
            with on_its_device(trainer, pl_module):
                self._apply(trainer, pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook on the module."""
        self._end_watch()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave no hook on the module, also if the fit did not start."""
        self._end_watch()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The record of the edit, so that a resumed fit does not edit again, and whether the original was seen."""
        record = None if self.record is None else asdict(self.record)
        return {"record": record, "knows_original": self._knows_original}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record from a checkpoint. If there is one, its weights are edited already."""
        record, self._knows_original = state_dict["record"], state_dict["knows_original"]
        self.record = None if record is None else EditRecord(**record)

    def _apply(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        before_write: Callable[[nn.Parameter], object] = lambda parameter: None,
    ) -> None:
        # Made here, not in `setup`: only now has the strategy wrapped the module.
        engine = GradientEngine(pl_module, trainer)
        readout = decided_readout(trainer, pl_module, self.readout)
        with isolated_but_for_weights(trainer, pl_module):
            self.record = self.edit(
                readout.find_network(pl_module),
                forget=self._batches(self._forget, engine) if self.edit.needs_forget else (),
                retain=self._batches(self._retain_loader(trainer), engine) if self.edit.needs_retain else (),
                readout=readout,
                engine=engine,
                optimizers=trainer.optimizers,
                before_write=before_write,
            )
        rank_zero_info(
            f"`{self.record.edit}` changed {self.record.elements} weights in {self.record.tensors} tensors, by "
            f"{self.record.relative_change:.2%} of their length."
        )

    def _see_original(self, pl_module: pl.LightningModule) -> None:
        readout = choose_readout(pl_module) if self.readout is None else self.readout
        self.edit.see_original(readout.find_network(pl_module))

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _refuse_averages_behind(self, trainer: pl.Trainer) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        behind = callbacks[callbacks.index(self) + 1 :] if self in callbacks else []
        for name in [type(c).__name__ for c in behind if is_averaging(c)]:
            raise ValueError(
                f'`ApplyEdit(when="end")` should come after callbacks that put averaged weights into the module. Found '
                f"`{name}` behind it: the edit would be overwritten. Put `{name}` before it."
            )

    def _retain_loader(self, trainer: pl.Trainer) -> Any:
        loader = training_loader(trainer) if self._retain is None else self._retain
        if loader is None:
            raise ValueError(
                f"`{type(self.edit).__name__}` should find retain data. Found a fit without training data, or with such as "
                "come only once. Use `ApplyEdit(..., retain=...)`."
            )
        return loader

    def _batches(self, loader: Any, engine: GradientEngine) -> list[Any]:
        # All batches on every process, not a share: an edit has to give all of them the same weights.
        return [engine.to_device(batch) for batch in in_order(loader)]
