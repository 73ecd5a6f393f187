from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.data import DataSource, loader_of
from lightning_unlearn.transforms import StepChain


def retain_loader(trainer: pl.Trainer, retain: DataSource | None) -> Iterable[Any]:
    """The loader of what must stay; empty where that is what the fit trains on."""
    return () if retain is None else loader_of(retain, "retain", trainer)


def refuse_nothing_to_protect(trainer: pl.Trainer, retain: DataSource | None, who: str) -> None:
    """Without ``retain``, it is beside forgetting only that what the fit trains on is what must stay."""
    if retain is None and not StepChain.of(trainer).forgets:
        raise ValueError(
            f"`{who}` should find what to protect. Found neither `Unlearn`, beside which the fit's own data is what must "
            f"stay, nor `retain`. Use `{who}(retain=...)`."
        )
