"""Runs of `Tuner` leave nothing behind, and fits of few steps or none are no faults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet, same
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    Bounded,
    CachedLogLikelihood,
    CyclicOrder,
    DisruptionBudget,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    KLToReference,
    RecoveryCheck,
    StepGuard,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.guards import History, NullSpace
from lightning_unlearn.selectors import Random, TopShare
from lightning_unlearn.transforms import StepChain

pytestmark = [
    pytest.mark.filterwarnings("ignore:All trained parameters should be protected"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
AT_ORIGINAL = 4 * math.log(2)  # NPO with a likelihood ratio of one, at beta 0.5


class First(Unlearn):
    """Keeps each forget loss."""

    def __init__(self, objective: Any = None, **kwargs: Any) -> None:
        super().__init__(NPO(beta=0.5) if objective is None else objective, **kwargs)
        self.seen: list[float] = []

    def forget_loss(self, batch: Any) -> Tensor:
        loss = super().forget_loss(batch)
        self.seen.append(loss.item())
        return loss


def sgd(params: Any) -> Any:
    return torch.optim.SGD(params, lr=1e-2, momentum=0.9)


CALLBACKS: dict[str, Any] = {
    "cache": lambda: [First(reference=CachedLogLikelihood())],
    "copy": lambda: [First(reference=FrozenCopy())],
    "own optimizer": lambda: [First(optimizer=sgd)],
    "guard": lambda: [StepGuard(directions=History(3)), First(Bounded(GradientAscent(), bound=4.0))],
    "subspace": lambda: [First(), SubspaceGuard(NullSpace(0.3), batches=2)],
    "scores": lambda: [TrainOnly(selector=Random(), choice=TopShare(0.5)), First()],
    "check": lambda: [First(), RecoveryCheck(every_n_epochs=1)],
    "budget": lambda: [First(), DisruptionBudget(loader(seed=5), kl=1e6, every=1)],
}


def data() -> ForgetRetainData:
    return ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())


class Rated(SomebodysModule):
    lr = 1e-2


def trainer_of(callbacks: list[pl.Callback], folder: Path, **kwargs: Any) -> pl.Trainer:
    return quiet(callbacks=callbacks, default_root_dir=folder, **{"max_epochs": 2, **kwargs})


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_fit_after_a_search_for_the_rate_is_the_fit_without_it(name: str, tmp_path: Path) -> None:
    alone, expected = Rated("sgd"), CALLBACKS[name]()
    trainer_of(expected, tmp_path).fit(alone, datamodule=data())

    module, callbacks = Rated("sgd"), CALLBACKS[name]()
    trainer, source = trainer_of(callbacks, tmp_path), data()
    found = Tuner(trainer).lr_find(module, datamodule=source, num_training=5, update_attr=False)
    assert len(found.results["loss"]) == 5
    assert same(module, Rated())
    assert trainer not in StepChain._chains
    trainer.fit(module, datamodule=source)
    assert same(module, alone)
    for callback, other in zip(callbacks, expected, strict=True):
        assert getattr(callback, "_steps", None) == getattr(other, "_steps", None)
        assert getattr(callback, "seen", None) == getattr(other, "seen", None)
        assert getattr(callback, "observations", None) == getattr(other, "observations", None)
        assert getattr(callback, "history", None) == getattr(other, "history", None)


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["before us", "after us"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_search_within_the_fit_counts_no_step_of_ours(name: str, first: bool, tmp_path: Path) -> None:
    finder, callbacks = LearningRateFinder(num_training_steps=4), CALLBACKS[name]()
    trainer = trainer_of([finder, *callbacks] if first else [*callbacks, finder], tmp_path)
    trainer.fit(Rated("sgd"), datamodule=data())
    assert trainer.global_step == 12
    (unlearn,) = (c for c in callbacks if isinstance(c, First))
    assert unlearn._steps == {"merged": 12, "taken": 12}
    assert unlearn._stream.position == 12
    if name not in ("guard",):
        assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)


class InTheMiddle(LearningRateFinder):
    """As Lightning documents it: another search at the start of some epoch."""

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            before = [p.detach().clone() for p in pl_module.parameters()]
            self.lr_find(trainer, pl_module)
            assert all(torch.equal(a, b) for a, b in zip(before, pl_module.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_search_in_the_middle_of_a_fit_is_none_of_our_business(name: str, tmp_path: Path) -> None:
    callbacks = CALLBACKS[name]()
    finder = InTheMiddle(num_training_steps=4, early_stop_threshold=None)
    trainer_of([finder, *callbacks], tmp_path, max_epochs=3).fit(Rated("sgd"), datamodule=data())
    assert len(finder.optimal_lr.results["loss"]) == 4
    (unlearn,) = (c for c in callbacks if isinstance(c, First))
    assert unlearn._steps["merged"] == unlearn._steps["taken"] == len(unlearn.seen) == unlearn._stream.position
    for callback in callbacks:
        assert len(set(getattr(callback, "_steps", {"none": 0}).values()) - {0}) <= 1


def test_the_reference_of_our_own_module_is_that_of_the_fit_after_the_search(tmp_path: Path) -> None:
    class Kept(UnlearningModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    losses: list[float] = []
    module = Kept(torch.nn.Linear(8, 5), retain=KLToReference(), optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    trainer, source = trainer_of([First()], tmp_path), data()
    Tuner(trainer).lr_find(module, datamodule=source, num_training=4, update_attr=False)
    with torch.no_grad():
        module.network.weight.mul_(3)  # the user goes on with other weights
    losses.clear()
    trainer.fit(module, datamodule=source)
    assert losses[0] == pytest.approx(0, abs=1e-6)


class Sized(pl.LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(examples(1, n=24), batch_size=self.batch_size)


class WithHyperparameters(pl.LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return DataLoader(examples(1, n=24), batch_size=self.hparams.batch_size)


@pytest.mark.parametrize("kind", [Sized, WithHyperparameters])
@pytest.mark.parametrize("order", [None, CyclicOrder()], ids=["their order", "our order"])
def test_the_batch_size_of_the_retain_data_is_scaled(kind: Any, order: Any, tmp_path: Path) -> None:
    source = ForgetRetainData(retain=kind(), forget=loader(seed=2), order=order)
    unlearn, module = First(), SomebodysModule("sgd")
    trainer = trainer_of([unlearn], tmp_path, max_epochs=1)
    assert Tuner(trainer).scale_batch_size(module, datamodule=source, max_trials=2, steps_per_trial=2) == 4
    assert source.batch_size == 4
    assert same(module, SomebodysModule())
    trainer.fit(module, datamodule=source)
    assert unlearn._steps == {"merged": 6, "taken": 6}
    assert unlearn.seen[0] == pytest.approx(AT_ORIGINAL, abs=1e-5)


def test_a_loader_has_no_batch_size_to_scale(tmp_path: Path) -> None:
    assert not hasattr(data(), "batch_size")


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"max_epochs": 0}, {"limit_train_batches": 0}])
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_fit_of_no_steps_is_no_fault(name: str, limit: dict[str, Any], tmp_path: Path) -> None:
    callbacks, module = CALLBACKS[name](), SomebodysModule("sgd")
    trainer = trainer_of(callbacks, tmp_path, **limit)
    trainer.fit(module, datamodule=data())
    assert same(module, SomebodysModule())
    assert trainer not in StepChain._chains
    trainer.save_checkpoint(tmp_path / "none.ckpt")
    saved = torch.load(tmp_path / "none.ckpt", weights_only=True)["callbacks"]
    assert not [key for key in saved if key.startswith(("Unlearn", "StepGuard", "SubspaceGuard", "TrainOnly"))]


def test_a_fit_of_few_batches_counts_them(tmp_path: Path) -> None:
    (unlearn,) = CALLBACKS["cache"]()
    trainer_of([unlearn], tmp_path, limit_train_batches=2).fit(SomebodysModule("sgd"), datamodule=data())
    assert unlearn._steps == {"merged": 4, "taken": 4}
