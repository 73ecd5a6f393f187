"""What `Unlearn` refuses, by name and with the way out."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.engine import refuse_manual_optimization, strategy_kind


def refuse_unsupported(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Refuse, by name and with the way out, what gradients cannot be merged under."""
    refuse_manual_optimization(pl_module, "Unlearn")
    if strategy_kind(trainer) == "deepspeed":
        raise NotImplementedError(
            "`Unlearn` should be able to read and write `p.grad`. Found `DeepSpeedStrategy`, which keeps gradients inside "
            "its engine. Use `strategy='ddp'`, `'fsdp'`, or `ModelParallelStrategy` (FSDP2)."
        )
    if not trainer.fit_loop._data_source.is_defined():
        raise ValueError(
            "`Unlearn` should find retain data: what the fit trains on is what must stay. Found no training data. Give it "
            "some: `trainer.fit(module, datamodule=ForgetRetainData(retain=..., forget=...))`, or "
            "`trainer.fit(module, retain)`."
        )


def refuse_empty_retain(trainer: pl.Trainer) -> None:
    """Lightning ends a fit on an empty loader with no more than a warning."""
    if trainer.num_training_batches == 0 and trainer.limit_train_batches:
        raise ValueError(
            "The retain set should hold at least one batch. Found none, so nothing was trained or forgotten. Check its path "
            "and filter; a `DataLoader` with `drop_last=True` drops a set smaller than its batch size."
        )


def refuse_truncated(checkpoint: Any) -> None:
    """Say what is wrong with a checkpoint whose writing was interrupted; torch only says ``Invalid argument``."""
    path = Path(str(checkpoint))
    if checkpoint is None or not path.is_file():
        return
    with path.open("rb") as file:
        starts_whole = file.read(2) == b"PK"
    if starts_whole and not zipfile.is_zipfile(path):
        raise ValueError(
            f"The checkpoint should be a whole file. Found one that ends in its middle: `{path}`, "
            f"{path.stat().st_size} bytes. Resume from the one before it."
        )
