from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch

from gpu_cost_parts._meter import Meter
from gpu_cost_parts._model import compile_decoder, loaders, network
from lightning_unlearn import (
    ForgetRetainData,
    KLToReference,
    Objective,
    Relearn,
    SequentialOrder,
    StepGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import History, NoChange, Storage


class Clock(pl.Callback):
    """Last in the list: the step ends when all other callbacks are done."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_batch_start(self, *args: Any) -> None:
        self.meter.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = self.meter.end()


class Always(Relearn):
    """As many steps in each step of the fit, and not as many as are drawn."""

    def drawn(self, generator: torch.Generator) -> Relearn:
        return self


def ours(
    objective: Callable[[], Objective],
    *,
    lora: bool = False,
    keeps: Callable[[], Objective] | None = None,
    guard: Callable[[], StepGuard] | None = None,
    relearns: int = 0,
) -> Callable[..., None]:
    """Through the Trainer, as a user would."""

    def run(meter: Meter, size: str, length: int, dtype: torch.dtype, *, compiled: bool) -> None:
        model = network(size, meter.device, dtype, lora=lora).train()
        if compiled:
            compile_decoder(model)
        under = {"relearn": Always(relearns, lr=1e-5, mode="full")} if relearns else None
        callbacks = [Unlearn(objective(), under=under), *([guard()] if guard else []), Clock(meter)]
        module = UnlearningModule(
            model,
            retain=keeps() if keeps else None,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
        )
        retain, forget = loaders(size, length)
        trainer(meter.device, dtype, callbacks).fit(
            module, datamodule=ForgetRetainData(retain=retain, forget=forget, order=SequentialOrder())
        )

    return run


def trainer(device: torch.device, dtype: torch.dtype, callbacks: list[pl.Callback]) -> pl.Trainer:
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return pl.Trainer(
        max_epochs=-1,
        callbacks=callbacks,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        # Weights in bf16 come as they are: "bf16-true" would also round the frequencies of the positions.
        precision="bf16-mixed" if dtype == torch.float32 else "32-true",
        **quiet,
    )


def corrected(rank: int, storage: Callable[[], Storage]) -> Callable[[], StepGuard]:
    """A guard that corrects every step, which is the dearest case."""
    return lambda: StepGuard(NoChange(), History(rank), storage=storage())


def kl() -> Objective:
    return KLToReference()
