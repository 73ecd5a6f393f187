from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_unlearn.engine import GradientEngine


def is_logged(trainer: pl.Trainer) -> bool:
    """Whether to measure what costs extra at this step, as ``log_every_n_steps`` says; 0 means never."""
    # Every rank gets the same answer: measuring takes collectives.
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0


def log_step(pl_module: pl.LightningModule, engine: GradientEngine, values: Mapping[str, Tensor], outputs: Any) -> None:
    """Log a step under ``unlearn/``: both losses, also in the progress bar, and norms and cosine if they were measured.

    Args:
        pl_module: The module that logs.
        engine: Averages the user's loss over processes; the other values are averages already.
        values: ``forget``, the loss, and everything else that was measured.
        outputs: What ``training_step`` returned, as Lightning passes it to callbacks.
    """
    losses = {"unlearn/forget": values["forget"]}
    if isinstance(outputs, dict) and "loss" in outputs:
        # Lightning has divided it by the number of micro-batches.
        loss = outputs["loss"].detach().float() * pl_module.trainer.accumulate_grad_batches
        losses["unlearn/retain"] = engine.average(loss)
    # The batch size is given, or Lightning would guess it from the user's batch; the values are means already.
    pl_module.log_dict(losses, prog_bar=True, batch_size=1)
    others = {f"unlearn/{name}": value for name, value in values.items() if name != "forget"}
    pl_module.log_dict(others, batch_size=1)


def shown_realised(ratio: float | None) -> dict[str, Tensor]:
    """What to log of the length of a step that was taken, over that of the one asked for; nothing if it is not known.

    Warns if it is less than half, as with bf16 weights, which do not take small steps.
    """
    if ratio is None:
        return {}
    if ratio < 0.5:
        rank_zero_warn(
            f"The weights took {ratio:.0%} of the length of the step the optimizer asked for: their precision swallows "
            "small steps. Train float32 weights with `precision='bf16-mixed'`, or use LoRA."
        )
    return {"realised": torch.tensor(ratio, dtype=torch.float32)}
