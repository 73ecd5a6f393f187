"""`unlearning(module, ...)` and `Trainer(callbacks=[Unlearn(...)])` leave a LightningModule the user's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, loader, quiet, same
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from somebodys_package import Classifier, Measurements

from lightning_unlearn import NPO, GradientAscent, Quantize, RecoveryCheck, Unlearn, unlearning

FORGET = {"class_path": "somebodys_package.Measurements", "init_args": {"seed": 2}}


class Remembers(pl.Callback):
    """A callback of the user's own."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.steps += 1


class WithCallbacks(SomebodysModule):
    def __init__(self, as_list: bool = True) -> None:
        super().__init__()
        self.remembers, self.as_list = Remembers(), as_list

    def configure_callbacks(self) -> Any:
        return [self.remembers] if self.as_list else self.remembers


def by_function(module: pl.LightningModule, objective: Any) -> list[pl.Callback]:
    unlearning(module, objective, forget=loader(seed=2))
    return []


def by_trainer(module: pl.LightningModule, objective: Any) -> list[pl.Callback]:
    return [Unlearn(objective, forget=loader(seed=2))]


Way = Callable[[pl.LightningModule, Any], list[pl.Callback]]
both_ways = pytest.mark.parametrize("way", [by_function, by_trainer], ids=lambda way: way.__name__)


def test_the_same_object_comes_back() -> None:
    module = SomebodysModule()
    before = dict(vars(module))
    assert unlearning(module, GradientAscent(), forget=loader(seed=2)) is module
    assert type(module) is SomebodysModule
    assert set(vars(module)) - set(before) == {"configure_callbacks"}
    assert not [name for name, _ in module.named_modules() if "unlearn" in name.lower()]


def test_both_ways_are_one_fit() -> None:
    one, other = SomebodysModule(), SomebodysModule()
    for way, module in ((by_function, one), (by_trainer, other)):
        quiet(callbacks=way(module, NPO())).fit(module, loader(seed=1))
    assert same(one, other)
    assert one.called == other.called


@pytest.mark.parametrize("as_list", [True, False])
@both_ways
def test_the_users_own_callbacks_still_run(way: Way, as_list: bool) -> None:
    module = WithCallbacks(as_list)
    trainer = quiet(callbacks=way(module, GradientAscent()))
    trainer.fit(module, loader(seed=1))
    assert module.remembers.steps == trainer.global_step == 6
    (unlearn,) = [c for c in trainer.callbacks if isinstance(c, Unlearn)]
    assert unlearn._steps["merged"] == 6


def test_checks_come_along_behind() -> None:
    module = WithCallbacks()
    check = RecoveryCheck({"int4": Quantize(bits=4)}, every_n_epochs=0)
    unlearning(module, GradientAscent(), forget=loader(seed=2), checks=[check])
    trainer = quiet()
    trainer.fit(module, loader(seed=1))
    kinds = [type(c) for c in trainer.callbacks]
    assert kinds.index(Remembers) < kinds.index(Unlearn) < kinds.index(RecoveryCheck)
    assert {look.attack for look in check.observations} == {"none", "int4"}


@both_ways
def test_checkpoints_are_the_users_own(way: Way, tmp_path: Path) -> None:
    module = Classifier(width=12)
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer = quiet(callbacks=[*way(module, GradientAscent()), keep], enable_checkpointing=True)
    trainer.fit(module, datamodule=Measurements(seed=1))

    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == list(Classifier(width=12).state_dict())
    assert checkpoint["hyper_parameters"] == {"width": 12, "lr": 0.01}
    loaded = Classifier.load_from_checkpoint(tmp_path / "last.ckpt")
    difference = max((a - b).abs().max().item() for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    assert difference == 0.0
    assert not same(loaded, Classifier(width=12))  # and something was learnt
    quiet().validate(loaded, datamodule=Measurements(seed=1))  # without us


def test_a_fit_goes_on_without_us_from_the_checkpoint(tmp_path: Path) -> None:
    module = unlearning(Classifier(), GradientAscent(), forget=Measurements(seed=2))
    quiet(callbacks=[ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True).fit(
        module, datamodule=Measurements(seed=1)
    )
    plain = Classifier()
    trainer = quiet(max_epochs=2)
    with pytest.warns(UserWarning, match=r"Please add the following callbacks: .*'Unlearn"):  # Lightning's own
        trainer.fit(plain, datamodule=Measurements(seed=1), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 8


def test_a_module_can_be_fitted_again() -> None:
    """The callbacks come along each time, and there is one of them."""
    module = unlearning(SomebodysModule(), GradientAscent(), forget=loader(seed=2))
    for _ in range(2):
        trainer = quiet()
        trainer.fit(module, loader(seed=1))
        assert len([c for c in trainer.callbacks if isinstance(c, Unlearn)]) == 1
        assert trainer.global_step == 6


def test_two_things_to_forget() -> None:
    """Called twice, both are forgotten."""
    module = SomebodysModule("sgd")
    unlearning(module, GradientAscent(), forget=loader(seed=2))
    unlearning(module, NPO(), forget=loader(seed=3))
    trainer = quiet()
    trainer.fit(module, loader(seed=1))
    assert [c._steps["merged"] for c in trainer.callbacks if isinstance(c, Unlearn)] == [6, 6]


def test_from_a_mapping_as_in_yaml() -> None:
    mapping = {"class_path": "somebodys_package.Classifier", "init_args": {"width": 12}}
    module = unlearning(mapping, GradientAscent(), forget=FORGET)
    assert isinstance(module, Classifier)
    assert dict(module.hparams) == {"width": 12, "lr": 0.01}
    with pytest.raises(
        ValueError, match=r"`somebodys_package.Classifier` should be built from.*'widht' is not accepted"
    ):
        unlearning({**mapping, "init_args": {"widht": 12}}, GradientAscent(), forget=FORGET)


def test_the_module_can_be_pickled_and_copied() -> None:
    """Spawned processes pickle it; averaged weights live in a copy."""
    module = unlearning(WithCallbacks(), GradientAscent(), forget=loader(seed=2))
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert same(again, module)
        assert [type(c) for c in again.configure_callbacks()] == [Remembers, Unlearn]


@pytest.mark.filterwarnings("ignore:.*averag")
def test_averaged_weights_are_a_copy_in_the_middle_of_the_fit() -> None:
    module = unlearning(SomebodysModule("sgd"), GradientAscent(), forget=loader(seed=2))
    trainer = quiet(callbacks=[WeightAveraging()])
    trainer.fit(module, loader(seed=1))
    assert trainer.global_step == 6
