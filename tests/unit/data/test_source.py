"""Data come in any form people have them in; nested specifications keep their own hyper-parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import examples, loader
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import CombinedLoader
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset

from lightning_unlearn import ForgetRetainData
from lightning_unlearn.data import OpenedSource, build


class Seeded(pl.LightningDataModule):
    """As somebody writes it: everything it does, it does by `self.hparams`."""

    def __init__(self, seed: int = 1, n: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        self.rows = examples(self.hparams.seed, self.hparams.n)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=4)


class Module(pl.LightningModule):
    """Nothing."""


class Streamed(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(20))


class LikeHuggingFace:
    """Rows by number, and no torch base class."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        if index >= 20:
            raise IndexError
        return index


TOP = {"class_path": f"{__name__}.Seeded", "init_args": {"seed": 1}}
NESTED = {"class_path": f"{__name__}.Seeded", "init_args": {"seed": 2}}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], LightningCLI]:
    """Somebody's own script."""
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def run(data: dict[str, Any]) -> LightningCLI:
        config = {"seed_everything": False, "data": data, "trainer": {"logger": False, "accelerator": "cpu"}}
        return LightningCLI(Module, pl.LightningDataModule, subclass_mode_data=True, run=False, args=config)

    return run


def test_nested_data_get_their_own_hyperparameters_and_not_those_of_the_top(cli: Any) -> None:
    """LightningCLI gives those under `data:` to every datamodule *it* builds: a forget set becomes the retain set."""
    data = cli(
        {"class_path": "lightning_unlearn.ForgetRetainData", "init_args": {"retain": TOP, "forget": NESTED, "seed": 7}}
    ).datamodule
    assert isinstance(data, ForgetRetainData)
    assert data.retain.source.hparams == {"seed": 1, "n": 8}
    assert data.forget.source.hparams == {"seed": 2, "n": 8}
    assert data.seed == 7
    data.setup("fit")
    assert not torch.equal(data.retain.source.rows.tensors[0], data.forget.source.rows.tensors[0])


def test_the_leak_is_there_without_us(cli: Any) -> None:
    """Where LightningCLI builds the inner datamodule itself: what we keep out of its reach."""
    data = cli({"class_path": f"{__name__}.Holder", "init_args": {"inner": NESTED, "seed": 7}}).datamodule
    assert data.inner.hparams.seed == 7


class Holder(pl.LightningDataModule):
    """Holds another.

    Args:
        inner: The other.
        seed: Of its own.
    """

    def __init__(self, inner: pl.LightningDataModule, seed: int = 9) -> None:
        super().__init__()
        self.inner = inner


def test_built_inside_a_fit_hyperparameters_are_restored_for_what_comes_after() -> None:
    from lightning.pytorch.core.mixins import hparams_mixin

    token = hparams_mixin._given_hyperparameters.set({"seed": 5})
    try:
        assert build(NESTED, pl.LightningDataModule).hparams.seed == 2
        assert hparams_mixin._given_hyperparameters.get() == {"seed": 5}
        with pytest.raises(ValueError, match="init_args"):
            build({**NESTED, "init_args": {"sead": 2}}, pl.LightningDataModule)
        assert hparams_mixin._given_hyperparameters.get() == {"seed": 5}
    finally:
        hparams_mixin._given_hyperparameters.reset(token)


def test_an_object_comes_back_as_it_is() -> None:
    for source in (Seeded(), loader(1), [1, 2]):
        assert build(source, pl.LightningDataModule) is source


def test_a_specification_is_checked() -> None:
    assert build(NESTED, pl.LightningDataModule).hparams == {"seed": 2, "n": 8}
    assert build({**NESTED, "init_args": None}, pl.LightningDataModule).hparams.seed == 1
    with pytest.raises(ValueError, match=r"`.*Seeded` should be built from its `init_args`\. Found: .*sead"):
        build({**NESTED, "init_args": {"sead": 2}}, pl.LightningDataModule)
    with pytest.raises(ValueError, match=r"should be built from its `init_args`\. Found: .*seed"):
        build({**NESTED, "init_args": {"seed": "two"}}, pl.LightningDataModule)
    with pytest.raises(ValueError, match=r"Nowhere.* should be built"):
        build({"class_path": "nothing.Nowhere"}, pl.LightningDataModule)
    with pytest.raises(ValueError, match=r"`class_path` and `init_args`\. Found keys \['path'\]"):
        build({"path": "x"}, pl.LightningDataModule)


SOURCES: dict[str, Any] = {
    "datamodule": lambda: Seeded(n=20),
    "mapping": lambda: {"class_path": f"{__name__}.Seeded", "init_args": {"n": 20}},
    "loader": lambda: loader(1, n=20),
    "data_set": lambda: examples(1, n=20),
    "iterable_data_set": Streamed,
    "hugging_face": LikeHuggingFace,
    "batches": lambda: [torch.arange(12), torch.arange(8)],
}


@pytest.mark.parametrize("name", SOURCES)
def test_batches_come_out_of_every_form(name: str) -> None:
    part = OpenedSource(SOURCES[name](), "forget")
    part.prepare_data()
    part.setup(None)
    batches = list(part.loader())
    assert sum(len(b if isinstance(b, torch.Tensor) else b[1]) for b in batches) == 20
    assert all(len(b if isinstance(b, torch.Tensor) else b[1]) > 1 for b in batches)
    part.teardown("fit")


class Returning(pl.LightningDataModule):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def train_dataloader(self) -> Any:
        return self.what


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_training_batches_are_there_in_every_stage_beside_what_the_stage_needs(stage: str) -> None:
    stages = []

    class Staged(Seeded):
        def setup(self, stage: str) -> None:
            stages.append(stage)
            super().setup(stage)

    OpenedSource(Staged(), "retain").setup(None, stage)
    assert stages == list(dict.fromkeys(["fit", stage]))


LONG, SHORT = DataLoader([1, 2, 3], 1), DataLoader([7, 8], 1)
SEVERAL: dict[str, tuple[Callable[[], Any], Any]] = {
    "mapping": (lambda: {"a": LONG, "b": SHORT}, [{"a": 1, "b": 7}, {"a": 2, "b": 8}, {"a": 3, "b": 7}]),
    "sequence": (lambda: [LONG, SHORT], [[1, 7], [2, 8], [3, 7]]),
    "combined": (lambda: CombinedLoader([LONG, SHORT], "min_size"), [[1, 7], [2, 8]]),
    "in turn": (lambda: CombinedLoader([LONG, SHORT], "sequential"), [1, 2, 3, 7, 8]),
    "of a datamodule": (lambda: Returning({"a": SHORT}), [{"a": 7}, {"a": 8}]),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_loaders_give_the_batches_that_a_trainer_would_hand_on(name: str) -> None:
    make, expected = SEVERAL[name]
    batches = OpenedSource(make(), "forget").loader()
    for _ in range(2):  # and can be gone through again
        assert [tree_map(int, batch) for batch in batches] == expected


def test_the_combined_loader_of_a_running_fit_is_not_started_anew() -> None:
    theirs = CombinedLoader([LONG, SHORT], "sequential")
    running = iter(theirs)
    next(running)
    list(OpenedSource(theirs, "retain").loader())
    assert int(next(running)[0]) == 2


def test_what_is_no_data_gets_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"The forget data should come as a `DataLoader`, several .* Found `NoneType`"):
        OpenedSource(Returning(None), "forget").loader()
