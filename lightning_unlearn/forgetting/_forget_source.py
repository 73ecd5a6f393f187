from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.data import DataSource, RowsByEpoch, loader_of


def forget_source(
    trainer: pl.Trainer, forget: DataSource | None, who: str = "Unlearn"
) -> tuple[Iterable[Any], RowsByEpoch | None]:
    """The forget loader, and the order of its rows, if the datamodule gives one."""
    if forget is not None:
        return loader_of(forget, "forget", trainer), None
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "forget_dataloader"):
        raise ValueError(
            f"`{who}` should find what to forget: a datamodule with `forget_dataloader`, or `Unlearn(forget=...)`. Found "
            f"`trainer.datamodule = {type(data).__name__ if data is not None else None}`. Wrap your loaders: "
            "`trainer.fit(module, datamodule=ForgetRetainData(retain=..., forget=...))`."
        )
    order = data.forget_order() if hasattr(data, "forget_order") else None
    return data.forget_dataloader(), order
