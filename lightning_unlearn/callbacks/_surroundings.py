"""What a callback needs to know of the trainer it is a guest of, and what it refuses."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_unlearn.data import Order, Part
from lightning_unlearn.engine import strategy_kind
from lightning_unlearn.functional.ranks import data_share
from lightning_unlearn.readouts import ClassificationReadout, PackedCausalLMReadout, Readout, is_language_model


def refuse_unsupported(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Refuse, by name and with the way out, what gradients cannot be merged under."""
    if not pl_module.automatic_optimization:
        raise NotImplementedError(
            "`Unlearn` should run under automatic optimization: it merges gradients before the trainer's own step. Found "
            f"`automatic_optimization = False` in `{type(pl_module).__name__}`. Let Lightning step the optimizer."
        )
    if strategy_kind(trainer) == "deepspeed":
        raise NotImplementedError(
            "`Unlearn` should be able to read and write `p.grad`. Found `DeepSpeedStrategy`, which keeps gradients inside "
            "its engine. Use `strategy='ddp'`, `'fsdp'`, or `ModelParallelStrategy` (FSDP2)."
        )
    if not trainer.fit_loop._data_source.is_defined():
        raise ValueError(
            "`Unlearn` should find retain data: what the fit trains on is what must stay. Found no training data. Give it "
            "some: `trainer.fit(module, datamodule=SplitData(retain=..., forget=...))`, or `trainer.fit(module, retain)`."
        )


def refuse_tensor_parallel(trainer: pl.Trainer, who: str) -> None:
    """Refuse to measure in processes of which several see the same data."""
    _, shares = data_share(trainer)
    if shares != trainer.world_size:
        raise NotImplementedError(
            f"`{who}` should measure each example in one process. Found `tensor_parallel_size = "
            f"{trainer.world_size // shares}`, where several run it together. Use `tensor_parallel_size=1`, or leave "
            f"`{who}` out and check the saved model in one process."
        )


def refuse_optimizers(trainer: pl.Trainer, who: str = "Unlearn") -> None:
    """Refuse none, and one that evaluates its closure many times a step."""
    if not trainer.optimizers or type(trainer.optimizers[0]).__name__ == "_MockOptimizer":
        raise ValueError(
            f"`{who}` should find the optimizer of the module. Found none: `configure_optimizers` returned `None`. "
            "Return one, over what may be changed."
        )
    if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        raise NotImplementedError(
            f"`{who}` should get an optimizer that takes one gradient a step. Found `LBFGS`. Use `AdamW` or `SGD`."
        )


def refuse_empty_retain(trainer: pl.Trainer) -> None:
    """Lightning ends a fit on an empty loader with no more than a warning."""
    if trainer.num_training_batches == 0 and trainer.limit_train_batches:
        raise ValueError(
            "The retain set should hold at least one batch. Found none, so nothing was trained or forgotten. Check its path "
            "and filter; a `DataLoader` with `drop_last=True` drops a set smaller than its batch size."
        )


C = TypeVar("C", bound=pl.Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of one kind."""
    return [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]


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


def choose_readout(module: nn.Module) -> Readout:
    """The module's own readout, if it says one; else for a language model if it holds one, else for a classifier."""
    if isinstance(own := getattr(module, "readout", None), Readout):
        return own
    return PackedCausalLMReadout() if any(is_language_model(m) for m in module.modules()) else ClassificationReadout()


def forget_source(trainer: pl.Trainer, forget: Any, who: str = "Unlearn") -> tuple[Iterable[Any], Order | None]:
    """The forget loader, and the order of its rows if the datamodule has a say in it."""
    if forget is not None:
        part = Part(forget, "forget")
        part.prepare_data()
        part.setup(trainer)
        return part.loader(), None
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "forget_dataloader"):
        raise ValueError(
            f"`{who}` should find what to forget: a datamodule with `forget_dataloader`, or `Unlearn(forget=...)`. Found "
            f"`trainer.datamodule = {type(data).__name__ if data is not None else None}`. Wrap your loaders: "
            "`trainer.fit(module, datamodule=SplitData(retain=..., forget=...))`."
        )
    order = data.forget_order() if hasattr(data, "forget_order") else None
    return data.forget_dataloader(), order
