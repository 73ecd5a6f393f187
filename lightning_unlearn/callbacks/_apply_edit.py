from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lightning_unlearn.data import DataSource, in_order, loader_of
from lightning_unlearn.edits import Edit, EditRecord
from lightning_unlearn.engine import (
    GradientEngine,
    decided_readout,
    isolated_but_for_weights,
    show_original,
    strategy_kind,
)
from lightning_unlearn.forgetting import forget_source
from lightning_unlearn.readouts import Readout


class ApplyEdit(pl.Callback):
    """Edit the network once, when a fit begins.

    It happens when the first epoch starts, after every other callback has seen the original: :class:`RecoveryCheck`
    observes it at step 0, the reference of :class:`Unlearn` is the original, and :class:`SubspaceGuard` protects the inputs
    that layers had before the edit. The place of this callback in the list does not matter. Random generators, buffers,
    gradients and modes are left as they were.

    A fit that is resumed from a checkpoint does not edit again; a second ``fit`` does.

    To edit without training, use ``Trainer(max_steps=0)``: the network is edited when that fit starts. Lightning then calls
    no hook of training, so no check runs. To see the effect, call ``trainer.validate`` with a :class:`RecoveryCheck` before
    and after. In a script, ``edit(network)`` does the same.

    Args:
        edit: What is done.
        forget: What must go, if the edit needs it. Defaults to ``forget_dataloader`` of the trainer's datamodule.
        retain: What must stay, if the edit needs it. Defaults to what the fit trains on.
        readout: How to run the network, if the edit needs data. Defaults to what fits the module, as in :class:`Unlearn`.

    Raises:
        NotImplementedError: In ``setup``, under FSDP1 or DeepSpeed.
        ValueError: In ``setup``, if the edit needs forget data, and there is none.

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
    ) -> None:
        if not isinstance(edit, Edit):
            raise TypeError(f"`edit` should be an `Edit`, such as `NegateTaskVector(base=...)`. Found `{edit!r}`.")
        self.edit = edit
        self.forget, self.retain, self.readout = forget, retain, readout
        self.record: EditRecord | None = None

    @property
    def state_key(self) -> str:
        """Includes the settings: Lightning refuses several stateful callbacks of one class with the same key."""
        return f"ApplyEdit[{type(self.edit).__name__}, {sorted(self.edit.settings().items())}]"

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
        self.record = None  # Lightning restores a checkpoint after `setup`; a resumed fit gets its record back
        self._forget = forget_source(trainer, self.forget, "ApplyEdit")[0] if self.edit.needs_forget else None
        self._retain = loader_of(self.retain, "retain", trainer) if self.retain is not None else None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Edit now if there will be no step: Lightning then calls none of the hooks of training."""
        if trainer.max_steps == 0 or trainer.max_epochs == 0:
            self._apply(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Edit in the first epoch, once all callbacks have seen the original."""
        if self.record is None:
            show_original(trainer, pl_module)
            self._apply(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The record of the edit, so that a resumed fit does not edit again."""
        return {"record": None if self.record is None else asdict(self.record)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the record from a checkpoint, whose weights are edited already."""
        record = state_dict["record"]
        self.record = None if record is None else EditRecord(**record)

    def _apply(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
            )
        rank_zero_info(
            f"`{self.record.edit}` changed {self.record.elements} weights in {self.record.tensors} tensors, by "
            f"{self.record.relative_change:.2%} of their length."
        )

    def _retain_loader(self, trainer: pl.Trainer) -> Any:
        loader = trainer.train_dataloader if self._retain is None else self._retain
        if not isinstance(loader, Iterable):
            raise ValueError(
                f"`{type(self.edit).__name__}` should find retain data. Found a fit without training data. Use "
                "`ApplyEdit(..., retain=...)`."
            )
        return loader

    def _batches(self, loader: Any, engine: GradientEngine) -> list[Any]:
        # All batches on every process, not a share: an edit has to give all of them the same weights.
        return [engine.to_device(batch) for batch in in_order(loader)]
