"""What a step guard can guard: under which trainer, whose step, and over which parameters together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_unlearn.engine import callbacks_of, refuse_manual_optimization, strategy_kind
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.guards._subspace_guard import SubspaceGuard
from lightning_unlearn.guards.storages import Storage

Scope = Literal["global", "module", "parameter"]


def refuse_unguardable(trainer: pl.Trainer, module: pl.LightningModule, storage: Storage) -> None:
    """Refuse, by name, a fit whose steps cannot be guarded."""
    refuse_manual_optimization(module, "StepGuard")
    if strategy_kind(trainer) == "deepspeed":
        raise NotImplementedError(
            "`StepGuard` should be able to read gradients and write weights. Found `DeepSpeedStrategy`, which keeps "
            "both inside its engine. Use `strategy='ddp'`, `'fsdp'`, or `ModelParallelStrategy` (FSDP2)."
        )
    _refuse_several_steps(trainer)
    if storage == "matrix_free":
        _refuse_matrix_free(trainer)
    if storage in ("matrix_free", "int8") and callbacks_of(trainer, SubspaceGuard):
        raise NotImplementedError(
            f"`storage='{storage}'` should be the only guard: what is not held as it is cannot be projected. Found a "
            "`SubspaceGuard`. Use `storage='fp32'`, `'bf16'` or `'cpu'` beside it."
        )


def _refuse_matrix_free(trainer: pl.Trainer) -> None:
    if trainer.world_size > 1:
        raise NotImplementedError(
            "`storage='matrix_free'` should run in one process: what layers see is not averaged over ranks. Found "
            f"`world_size = {trainer.world_size}`. Use `storage='fp32'`, `'bf16'` or `'cpu'`."
        )


def _refuse_several_steps(trainer: pl.Trainer) -> None:
    """Refuse to guard one forget step of several: the others would do the harm."""
    every = callbacks_of(trainer, Unlearn)
    apart = [c for c in every if c.optimizer is not None]
    if apart and len(every) > 1:
        raise NotImplementedError(
            "`StepGuard` should find all forgetting in one step: an `Unlearn(optimizer=...)` by itself, or any number of "
            f"`Unlearn` without. Found {len(every)} `Unlearn`, {len(apart)} of them with an optimizer of its own. Leave out "
            "`optimizer`, and the whole step is guarded."
        )


def last_to_step(trainer: pl.Trainer) -> torch.optim.Optimizer:
    """The optimizer whose step is guarded: that of forgetting alone if there is one, else the fit's."""
    own = (c.forget_optimizer for c in callbacks_of(trainer, Unlearn))
    return next((o for o in own if o is not None), trainer.optimizers[0])


def scopes_of(module: nn.Module, params: Sequence[Tensor], scope: Scope) -> list[int]:
    """Number of each parameter's scope, from 0 on."""
    if scope == "parameter":
        return list(range(len(params)))
    owner: dict[Tensor, str] = {}
    if scope == "module":
        owner = {p: name.rpartition(".")[0] for name, p in module.named_parameters()}
    names = [owner.get(p, "") for p in params]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]
