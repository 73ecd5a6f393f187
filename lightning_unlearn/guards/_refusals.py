"""What guards refuse, by name and with the way out."""

from __future__ import annotations

import lightning.pytorch as pl

from lightning_unlearn.data import DataSource
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.transforms import StepChain


def refuse_nothing_to_protect(trainer: pl.Trainer, retain: DataSource | None, who: str) -> None:
    """Without ``retain``, it is beside forgetting only that what the fit trains on is what must stay."""
    if retain is None and not StepChain.of(trainer).forgets:
        raise ValueError(
            f"`{who}` should find what to protect. Found neither `Unlearn`, beside which the fit's own data is what must "
            f"stay, nor `retain`. Use `{who}(retain=...)`."
        )


def refuse_several_processes(trainer: pl.Trainer, storage: Storage) -> None:
    """A storage may know only what its own process sees."""
    if trainer.world_size > 1 and not storage.allows_several_processes:
        raise NotImplementedError(
            f"`storage={storage!r}` should run in one process: what layers see is not averaged over ranks. Found "
            f"`world_size = {trainer.world_size}`. Use `storage=Float32()`, `BFloat16()` or `MainMemory()`."
        )


def refuse_restrictions(trainer: pl.Trainer, storage: Storage) -> None:
    """A storage may keep gradients in a form that cannot be projected."""
    if StepChain.of(trainer).is_restricted and not storage.allows_restrictions:
        raise NotImplementedError(
            f"`storage={storage!r}` should stand beside no restriction, such as `SubspaceGuard` or `TrainOnly`: what is not "
            "held as it is cannot be projected. Found one. Use `storage=Float32()`, `BFloat16()` or `MainMemory()`."
        )
