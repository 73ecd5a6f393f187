from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.data import DataSource, RowsByEpoch, loader_of


def forget_source(
    trainer: pl.Trainer, forget: DataSource | None, who: str = "Unlearn"
) -> tuple[Iterable[Any], RowsByEpoch | None]:
    """The forget loader, and the order of its rows, if the datamodule gives one.

    It is ``forget``, else the ``forget_dataloader()`` of the datamodule, else that of the module.
    """
    if forget is not None:
        return loader_of(forget, "forget", trainer), None
    data: Any = getattr(trainer, "datamodule", None)
    owners: list[Any] = [owner for owner in (data, trainer.lightning_module) if hasattr(owner, "forget_dataloader")]
    if not owners:
        raise ValueError(
            f"`{who}` should find what to forget: `Unlearn(forget=...)`, or a datamodule or module with "
            f"`forget_dataloader`. Found `trainer.datamodule = {type(data).__name__ if data is not None else None}`. Give "
            "the loader: `Unlearn(..., forget=loader)`, or `ForgetRetainData(retain=..., forget=...)` as the datamodule."
        )
    order = owners[0].forget_order() if hasattr(owners[0], "forget_order") else None
    return loader_of(owners[0].forget_dataloader(), "forget", trainer), order
