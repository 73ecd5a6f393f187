"""What callbacks ask of the trainer, and the refusals that they share."""

from __future__ import annotations

from typing import TypeVar

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_unlearn.runtime import data_share

C = TypeVar("C", bound=pl.Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of one kind."""
    return [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]


def show_original(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Let every callback see the network while it is the original: before something other than a step changes it."""
    # They look as late as they can, at the first batch.
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "see_original"):
            callback.see_original(trainer, pl_module)


def keep_original(trainer: pl.Trainer, pl_module: pl.LightningModule, parameter: nn.Parameter) -> None:
    """Let the module and every callback copy ``parameter``, which was shown to them, before an edit changes it."""
    for part in (pl_module, *trainer.callbacks):  # type: ignore[attr-defined]
        if hasattr(part, "keep_original"):
            part.keep_original(parameter)


def refuse_optimizers(trainer: pl.Trainer, who: str) -> None:
    """Refuse a fit without an optimizer, and one whose optimizer evaluates its closure many times a step."""
    # `_MockOptimizer` is what Lightning puts in if `configure_optimizers` returns `None`.
    if not trainer.optimizers or type(trainer.optimizers[0]).__name__ == "_MockOptimizer":
        raise ValueError(
            f"`{who}` should find the optimizer of the module. Found none: `configure_optimizers` returned `None`. "
            "Return one, with the parameters that may change."
        )
    if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        raise NotImplementedError(
            f"`{who}` should get an optimizer that takes one gradient a step. Found `LBFGS`. Use `AdamW` or `SGD`."
        )


def refuse_two_sets_of_weights(optimizer: torch.optim.Optimizer, who: str) -> None:
    """Refuse schedule-free optimizers, where ``who`` writes weights: they keep others, and write these outside of a step."""
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        raise NotImplementedError(
            f"`{who}` should get an optimizer that moves weights in its steps alone. Found `{type(optimizer).__name__}`, "
            "whose `train()` and `eval()` put others in their place, as schedule-free ones do. Use `AdamW` or `SGD` with a "
            f"schedule, or leave `{who}` out."
        )


def refuse_sparse_gradients(pl_module: pl.LightningModule, who: str) -> None:
    """Refuse embeddings that are trained by sparse gradients, which cannot be added to others, measured or kept."""
    for name, module in pl_module.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            raise NotImplementedError(
                f"`{who}` should find gradients that are dense. Found `{name}`, an `{type(module).__name__}` with "
                "`sparse=True`. Leave `sparse` out, and `SparseAdam` with it, or freeze the embedding."
            )


def refuse_tensor_parallel(trainer: pl.Trainer, who: str) -> None:
    """Refuse tensor parallelism, where several processes run the same examples: they would be counted several times."""
    _, shares = data_share(trainer)
    if shares != trainer.world_size:
        raise NotImplementedError(
            f"`{who}` should measure each example in one process. Found `tensor_parallel_size = "
            f"{trainer.world_size // shares}`, where several run it together. Use `tensor_parallel_size=1`, or leave "
            f"`{who}` out and check the saved model in one process."
        )


def refuse_manual_optimization(pl_module: pl.LightningModule, who: str) -> None:
    """Refuse a module that steps its optimizers itself."""
    if not pl_module.automatic_optimization:
        raise NotImplementedError(
            f"`{who}` should run under automatic optimization, which tells it of each step. Found "
            f"`automatic_optimization = False` in `{type(pl_module).__name__}`. Let Lightning step the optimizer."
        )
