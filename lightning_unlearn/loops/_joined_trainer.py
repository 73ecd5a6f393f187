from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

from lightning_unlearn.engine import JoinedProcesses, joined_strategy


def joined_trainer(
    module: pl.LightningModule,
    callbacks: Sequence[pl.Callback],
    *,
    device: torch.device,
    precision: Any,
    logger: Logger | None,
    log_every_n_steps: int,
) -> pl.Trainer:
    """Lightning's trainer, with ``callbacks`` and nothing of its own, for a loop that somebody else runs.

    It has no progress bar, no checkpoints and no summary, and prints nothing. Callbacks that other packages put into every
    trainer are left out: they were not given to this loop.
    """
    # Lightning makes the plugin for its own device; autocast has to be that of the device where the network is.
    mixed = [MixedPrecision("bf16-mixed", device.type)] if precision == "bf16-mixed" else []
    with _silence():
        trainer = pl.Trainer(
            accelerator="cpu",  # of no consequence: the strategy below knows where the network is
            devices=1,
            precision=None if mixed else precision,
            plugins=[JoinedProcesses(), *mixed],
            logger=False if logger is None else logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=log_every_n_steps,
            max_epochs=-1,
        )
    trainer.callbacks = list(callbacks)  # type: ignore[attr-defined]
    strategy = joined_strategy(module, device)
    strategy.precision_plugin = trainer.precision_plugin
    trainer._accelerator_connector.strategy = strategy
    module.trainer = trainer
    return trainer


@contextmanager
def _silence() -> Iterator[None]:
    """Without the lines on accelerators, loggers and tips, of which none is about the loop that runs."""
    lines = [
        logging.getLogger(f"{package}.utilities.rank_zero") for package in ("lightning.pytorch", "lightning.fabric")
    ]
    levels = [line.level for line in lines]
    for line in lines:
        line.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for line, level in zip(lines, levels, strict=True):
            line.setLevel(level)
