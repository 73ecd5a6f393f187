"""The refusals of `Unlearn`, each by name and with the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lightning_unlearn.engine import (
    callbacks_of,
    refuse_manual_optimization,
    refuse_optimizers,
    refuse_sparse_gradients,
    strategy_kind,
)
from lightning_unlearn.functional.settings import check_kind, check_positive
from lightning_unlearn.objectives import Objective
from lightning_unlearn.projectors import Projector
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references import Reference
from lightning_unlearn.transforms import GradientTransform

_PARTS: dict[str, tuple[type, str]] = {
    "objective": (Objective, "NPO()"),
    "readout": (Readout, "ClassificationReadout()"),
    "projector": (Projector, "HalfSpace()"),
    "reference": (Reference, "FrozenCopy()"),
}


def refuse_settings(weight: float, optimizer: Any, transforms: Any, **parts: Any) -> None:
    """Refuse arguments of `Unlearn` that are of the wrong kind or contradict each other."""
    for name, (kind, example) in _PARTS.items():
        if name == "objective" or parts[name] is not None:
            check_kind(name, parts[name], kind, example)
    projector = parts["projector"]
    check_positive("weight", weight, why=": the sign that makes it forgetting is in `objective`")
    if optimizer is not None and (isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer)):
        raise TypeError(
            "`optimizer` should make an optimizer from parameters, as `torch.optim.SGD` does, or `lambda params: "
            f"torch.optim.SGD(params, lr=1e-2)`. Found `{type(optimizer).__name__}`."
        )
    if optimizer is not None and projector is not None:
        raise ValueError(
            f"`projector` should have two gradients to merge. Found `projector = {projector!r}` and an `optimizer`, "
            "which steps along the forget gradient alone. Leave out one of them; to protect its step, add "
            "`StepGuard(NoChange())` to the callbacks."
        )
    for transform in [transforms] if isinstance(transforms, GradientTransform) else transforms or ():
        if transform is transforms or not isinstance(transform, GradientTransform):
            raise TypeError(
                "`transforms` should be a list of `GradientTransform`s, such as `[RowMask(share=0.1)]`. Found "
                f"`{transform!r}`{'' if transform is transforms else ' in it'}."
            )


def refuse_unsupported(
    trainer: pl.Trainer, pl_module: pl.LightningModule, transforms: Sequence[GradientTransform] = ()
) -> None:
    """Refuse, by name and with the way out, trainers in which gradients cannot be merged or transformed."""
    refuse_manual_optimization(pl_module, "Unlearn")
    if strategy_kind(trainer) == "deepspeed":
        raise NotImplementedError(
            "`Unlearn` should be able to read and write `p.grad`, and to run backward passes of its own. Found "
            "`DeepSpeedStrategy`, which keeps gradients inside its engine. What is missing: extra passes that ZeRO's hooks "
            "do not take for the fit's own, and merging by `safe_get_full_grad` and `safe_set_full_grad`. Use "
            "`strategy='ddp'`, `'fsdp'`, or `ModelParallelStrategy` (FSDP2)."
        )
    _refuse_transforms(trainer, transforms)
    # Lightning has no public way to ask for the training data before it opens the loader.
    if not trainer.fit_loop._data_source.is_defined():
        raise ValueError(
            "`Unlearn` should find retain data: what the fit trains on is what must stay. Found no training data. Use "
            "`trainer.fit(module, datamodule=ForgetRetainData(retain=..., forget=...))`, or "
            "`trainer.fit(module, retain)`."
        )


def refuse_after_others(trainer: pl.Trainer, ours: Any, kind: type[Any]) -> None:
    """Refuse what needs the retain gradient alone in a callback of ``kind``, `Unlearn`, after one that merges."""
    needs = ["under_retain=True"] if ours.under.retain else []
    needs += [] if ours.projector is None else [f"projector={ours.projector!r}"]
    before = takewhile(lambda callback: callback is not ours, callbacks_of(trainer, kind))
    merging = [
        f"{type(callback).__name__}({callback.objective!r})" for callback in before if callback.optimizer is None
    ]
    if needs and merging:
        raise NotImplementedError(
            f"`{type(ours).__name__}({needs[0]})` should find the retain gradient alone. Found `{merging[0]}` before it "
            "among the callbacks, whose forget gradient is merged by then, and would be taken for a part of it. Put this "
            "one first. Only one can be: to protect the step of several, leave it out, and add `StepGuard(NoIncrease())`, "
            "which sees their sum."
        )


def refuse_gradients(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Refuse, when the fit starts, optimizers and embeddings whose gradients are not one dense one in each step."""
    refuse_optimizers(trainer, "Unlearn")
    refuse_sparse_gradients(pl_module, "Unlearn")


def warn_of_other_forget_data(trainer: pl.Trainer, kind: type[Any]) -> None:
    """Say which forget data count, where no callback of ``kind``, `Unlearn`, uses those of the datamodule."""
    data: Any = getattr(trainer, "datamodule", None)
    given = [callback.forget for callback in callbacks_of(trainer, kind)]
    if not given or any(one is None for one in given) or not hasattr(data, "forget_dataloader"):
        return
    if not any(one is getattr(getattr(data, "forget", None), "source", None) for one in given):
        rank_zero_warn(
            "What must go should be given once. Found it twice: `Unlearn(forget=...)`, which is used, and the forget data "
            f"of `{type(data).__name__}`, which are not; `RecoveryCheck` still measures by the datamodule, unless it is "
            "given `probes={'forget': ...}`. Leave one out."
        )


def _refuse_transforms(trainer: pl.Trainer, transforms: Sequence[GradientTransform]) -> None:
    """Refuse transforms of whole matrices under FSDP1, which joins many matrices to one vector and shards that."""
    needy = [type(transform).__name__ for transform in transforms if transform.needs_whole]
    if needy and strategy_kind(trainer) == "fsdp1":
        raise NotImplementedError(
            f"`{needy[0]}` should see whole matrices. Found `FSDPStrategy` (FSDP1), which flattens them. Use "
            "`ModelParallelStrategy` (FSDP2), `strategy='ddp'`, or leave it out of `Unlearn(transforms=...)`."
        )


def refuse_unmerged(steps: Mapping[str, int]) -> None:
    """Refuse a fit in which optimizer steps were taken without a forget gradient."""
    # More merged than taken is fine: a gradient scaler skips steps after the merge.
    if steps["merged"] < steps["taken"]:
        raise RuntimeError(
            f"Every optimizer step should carry a forget gradient. Found {steps['taken']} steps, of which "
            f"{steps['merged']} did: `on_before_optimizer_step` was not called. Does `optimizer_step` or "
            "`backward` of your module bypass it?"
        )


def refuse_empty_retain(trainer: pl.Trainer) -> None:
    """Refuse an empty retain loader, on which Lightning ends a fit with only a warning."""
    if trainer.num_training_batches == 0 and trainer.limit_train_batches:
        raise ValueError(
            "The retain set should hold at least one batch. Found none, so nothing was trained or forgotten. Check its path "
            "and filter; a `DataLoader` with `drop_last=True` drops a set smaller than its batch size."
        )
