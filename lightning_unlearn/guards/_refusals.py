"""The refusals of guards, each by name and with the way out."""

from __future__ import annotations

from typing import Any, get_args

import lightning.pytorch as pl

from lightning_unlearn.data import DataSource
from lightning_unlearn.functional.settings import check_kind
from lightning_unlearn.guards._layout import Scope
from lightning_unlearn.guards.directions import Directions, PerExample
from lightning_unlearn.guards.geometries import Geometry
from lightning_unlearn.guards.rules import Rule
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.transforms import StepChain, TrainOnly

_PARTS: dict[str, tuple[type, str]] = {
    "rule": (Rule, "NoIncrease()"),
    "directions": (Directions, "RetainGradient()"),
    "geometry": (Geometry, "Euclidean()"),
    "storage": (Storage, "Int8()"),
}


def refuse_settings(scope: Any, **parts: Any) -> None:
    """Refuse arguments of `StepGuard` that are of the wrong kind or contradict each other."""
    if scope not in get_args(Scope):
        raise ValueError(f"`scope` should be one of {get_args(Scope)}. Found `scope = {scope!r}`.")
    for name, part in parts.items():
        check_kind(name, part, *_PARTS[name])
    storage, directions = parts["storage"], parts["directions"]
    if not storage.holds_gradients and not isinstance(directions, PerExample):
        raise ValueError(
            f"`storage={storage!r}` should go with gradients of single examples, which it computes from the inputs of "
            f"layers. Found `directions = {directions!r}`. Use `directions=PerExample()`, or another storage."
        )


def refuse_nothing_to_protect(trainer: pl.Trainer, retain: DataSource | None, who: str) -> None:
    """Require ``retain``, or an ``Unlearn``: only beside forgetting is the fit's own data what must stay."""
    if retain is None and not StepChain.of(trainer).forgets:
        raise ValueError(
            f"`{who}` should find what to protect. Found neither `Unlearn`, beside which the fit's own data is "
            f"protected, nor `retain`. Use `{who}(retain=...)`."
        )


def refuse_several_processes(trainer: pl.Trainer, storage: Storage) -> None:
    """Refuse several processes with a storage that knows the layer inputs of its own process only."""
    if trainer.world_size > 1 and not storage.allows_several_processes:
        raise NotImplementedError(
            f"`storage={storage!r}` should run in one process: inputs of layers are not averaged over ranks. Found "
            f"`world_size = {trainer.world_size}`. Use `storage=Float32()`, `BFloat16()` or `MainMemory()`."
        )


def refuse_restrictions(trainer: pl.Trainer, storage: Storage) -> None:
    """Refuse a restriction beside a storage whose gradients cannot be projected in the form they are kept in."""
    if StepChain.of(trainer).is_restricted and not storage.allows_restrictions:
        raise NotImplementedError(
            f"`storage={storage!r}` should stand beside no restriction, such as `SubspaceGuard` or `TrainOnly`: gradients "
            "kept in this form cannot be projected. Found one. Use `storage=Float32()`, `BFloat16()` or `MainMemory()`."
        )


def refuse_projections(trainer: pl.Trainer, who: str) -> None:
    """Refuse restrictions that project: they come last, and mix coordinates that were chosen one by one."""
    for restriction in StepChain.of(trainer).restrictions:
        if not isinstance(restriction, TrainOnly):
            raise NotImplementedError(
                f"`{who}` should choose coordinates one by one. Found `{type(restriction).__name__}` beside it, which "
                "projects the step afterwards, and moves the others again. Use `StepGuard`, which looks for its correction "
                "among projected steps, or `TrainOnly`."
            )
