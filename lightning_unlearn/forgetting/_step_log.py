from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_unlearn.engine import GradientEngine


def is_logged(trainer: pl.Trainer) -> bool:
    """Whether what costs extra is measured at this step, as ``log_every_n_steps`` says; 0 for never."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0


def log_step(pl_module: pl.LightningModule, engine: GradientEngine, values: Mapping[str, Tensor], outputs: Any) -> None:
    """Log a step under ``unlearn/``: the two losses for the progress bar, too, and the geometry where it was measured.

    Args:
        pl_module: Logs it.
        engine: Averages the user's loss over processes; the others are averages already.
        values: ``forget``, the loss, and what else is known of the step.
        outputs: What ``training_step`` returned, as Lightning hands it on.
    """
    losses = {"unlearn/forget": values["forget"]}
    if isinstance(outputs, dict) and "loss" in outputs:
        # Lightning has divided it by the number of micro-batches.
        loss = outputs["loss"].detach().float() * pl_module.trainer.accumulate_grad_batches
        losses["unlearn/retain"] = engine.average(loss)
    pl_module.log_dict(losses, prog_bar=True, batch_size=1)
    others = {f"unlearn/{name}": value for name, value in values.items() if name != "forget"}
    pl_module.log_dict(others, batch_size=1)


def warn_swallowed(ratio: float) -> None:
    """Say so if the weights took less than half of the length of the step: bf16 has eight bits."""
    if ratio < 0.5:
        rank_zero_warn(
            f"The weights took {ratio:.0%} of the length of the step the optimizer asked for: their precision swallows "
            "small steps. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
        )
