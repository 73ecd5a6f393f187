"""Behind `ForgetRetainData`, retain and forget rows meet as the order says; the user's datamodule keeps all it can."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _ranks import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_unlearn import ForgetRetainData, GradientAscent, Unlearn
from lightning_unlearn.data import (
    CyclicOrder,
    ForgetStream,
    Order,
    RandomOrder,
    ResumableLoader,
    RowSet,
    SequentialOrder,
)

ORDERS = [RandomOrder(), CyclicOrder(), SequentialOrder()]
every_order = pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)


def numbered(n: int, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
    return DataLoader(range(n), batch_size, **options)


def rows(batches: Any) -> list[int]:
    return [row for batch in batches for row in batch.tolist()]


def forget_stream(data: ForgetRetainData, **options: Any) -> ForgetStream:
    return ForgetStream(data.forget_dataloader(), order=data.forget_order(), **options)


@every_order
@pytest.mark.parametrize(("forget", "retain"), [(4, 10), (10, 4), (6, 6), (5, 11)])
def test_an_epoch_is_what_the_order_says(order: Order, forget: int, retain: int) -> None:
    data = ForgetRetainData(numbered(retain, shuffle=True), numbered(forget), order=order, seed=5)
    data.setup("fit")
    batches, stream = data.train_dataloader(), forget_stream(data)
    for epoch in range(3):
        batches.sampler.set_epoch(epoch)
        expected = order.rows(RowSet(range(forget), 2), RowSet(range(retain), 2), seed=5, epoch=epoch)
        kept = list(batches)
        gone = [next(stream) for _ in kept]
        assert len(kept) == len(batches)
        assert rows(kept) == expected.retain
        assert rows(gone) == expected.forget
        assert [len(a) for a in kept] == [len(b) for b in gone]  # so that pairs meet in one step


@every_order
@pytest.mark.parametrize(("forget_batch", "retain_batch"), [(2, 5), (5, 2), (3, 4), (1, 8)])
@pytest.mark.parametrize(("forget", "retain"), [(7, 30), (30, 7), (10, 10)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_of_different_sizes_still_make_whole_epochs(
    order: Order, forget_batch: int, retain_batch: int, forget: int, retain: int, world_size: int
) -> None:
    data = ForgetRetainData(numbered(retain, retain_batch), numbered(forget, forget_batch), order=order)
    share = {"num_replicas": world_size, "rank": 0}
    data.trainer = type("T", (), {"distributed_sampler_kwargs": share})()
    steps = len(data.train_dataloader())
    stream = [forget_stream(data, rank=rank, world_size=world_size) for rank in range(world_size)]
    gone = Counter(row for s in stream for row in rows(next(s) for _ in range(steps)))
    if isinstance(order, CyclicOrder):
        assert steps == max(-(-forget // (forget_batch * world_size)), -(-retain // (retain_batch * world_size)))
        assert set(gone) == set(range(forget))
    else:
        assert steps == -(-forget // (forget_batch * world_size))
        assert set(gone) == set(range(forget))
        assert gone.total() - forget == -forget % world_size  # once each, but for what fills up the ranks
    kept = list(data.train_dataloader())
    assert all(len(batch) == retain_batch for batch in kept[:-1])


def test_without_an_order_everything_is_as_given() -> None:
    given = numbered(10, shuffle=True)
    data = ForgetRetainData(given, numbered(4), order=None)
    assert data.train_dataloader() is given
    assert data.forget_order() is None
    several = {"a": numbered(3), "b": numbered(4)}
    assert ForgetRetainData(CombinedLoader(several), numbered(4), order=None).train_dataloader().iterables is several
    assert ForgetRetainData(Returning(several), numbered(4), order=None).train_dataloader() is several


def test_only_the_rows_a_sampler_visits_are_retained_and_forgotten() -> None:
    """The usual way to cut one data set in two."""
    retain = DataLoader(range(100, 120), 2, sampler=SubsetRandomSampler([5, 3, 8, 6]))
    forget = DataLoader(range(100, 120), 2, sampler=SubsetRandomSampler([0, 1]))
    data = ForgetRetainData(retain, forget, order=CyclicOrder())
    assert sorted(rows(data.train_dataloader())) == [103, 105, 106, 108]
    assert rows(data.forget_dataloader()) in ([100, 101], [101, 100])
    assert sorted(rows([next(forget_stream(data))])) == [100, 101]
    assert {name: rows(batches) for name, batches in data.probe_dataloaders().items()} == {
        "forget": [100, 101],
        "retain": [103, 105, 106, 108],
    }


def test_probe_and_attack_default_to_the_forget_data() -> None:
    data = ForgetRetainData(numbered(3), numbered(5, shuffle=True, drop_last=True))
    assert rows(data.probe_dataloaders()["forget"]) == rows(data.attack_dataloader()) == [0, 1, 2, 3, 4]
    assert rows(data.probe_dataloaders()["retain"]) == [0, 1, 2]
    assert data.parts == [data.retain, data.forget]
    other = ForgetRetainData(numbered(3), numbered(5), probe=numbered(6), attack=numbered(7))
    assert rows(other.probe_dataloaders()["forget"]) == list(range(6))
    assert rows(other.attack_dataloader()) == list(range(7))
    assert [part.name for part in other.parts] == ["retain", "forget", "probe", "attack"]


class Prepared(DataLoader[Any]):
    """Prepares its batches while it is iterated."""

    def __iter__(self) -> Any:
        return (batch + 100 for batch in super().__iter__())


class Streamed(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(4))


@pytest.mark.parametrize(
    ("retain", "found"),
    [
        (lambda: DataLoader(Streamed(), 2), "over a `Streamed` with a `_InfiniteConstantSampler`"),
        (lambda: [torch.arange(3)], "that is no `DataLoader`"),
        (
            lambda: numbered(4, sampler=WeightedRandomSampler([1.0] * 4, 4)),
            "over a `range` with a `WeightedRandomSampler`",
        ),
        (lambda: DataLoader(range(4), batch_sampler=[[0, 1], [2]]), "over a `range` with a `list`"),
        (lambda: DataLoader(range(4), batch_size=None), "over a `range` with a `NoneType`"),
        (lambda: Prepared(range(4), 2), "with an `__iter__` of its own"),
    ],
)
@pytest.mark.parametrize("part", ["retain", "forget"])
def test_ordering_rows_nobody_knows_is_refused(retain: Any, found: str, part: str) -> None:
    sources = {"retain": numbered(4), "forget": numbered(2), part: retain()}
    data = ForgetRetainData(**sources, order=RandomOrder())
    message = rf"`order=RandomOrder\(\)` should get .* of {part} data {found}\. Use `order=None`"
    for ask in (data.train_dataloader, data.forget_order):
        with pytest.raises(ValueError, match=message):
            ask()
    with pytest.raises(ValueError, match=message):
        quiet(callbacks=[Unlearn(GradientAscent())]).fit(SomebodysModule(), datamodule=data)


def test_empty_parts_get_one_clear_error() -> None:
    nothing, order = numbered(0, sampler=SequentialSampler([])), RandomOrder()
    data = ForgetRetainData(nothing, numbered(3), order=order)
    for ask in (data.train_dataloader, data.forget_order):
        with pytest.raises(ValueError, match=r"The retain set should hold at least one example\. Found none"):
            ask()
    data = ForgetRetainData(numbered(3), nothing, order=order)
    for ask in (data.train_dataloader, data.forget_order):
        with pytest.raises(ValueError, match=r"The forget set should hold at least one example\. Found none"):
            ask()


class Returning(pl.LightningDataModule):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def train_dataloader(self) -> Any:
        return self.what


class Everything(pl.LightningDataModule):
    """Uses every hook a datamodule has."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.counter = 0

    def prepare_data(self) -> None:
        self.called.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.called.append(f"setup {getattr(stage, 'value', stage)} of {self.trainer is not None}")

    def train_dataloader(self) -> Any:
        return loader(seed=1, n=8)

    def val_dataloader(self) -> Any:
        return loader(seed=3, n=4)

    def test_dataloader(self) -> Any:
        assert "setup test of True" in self.called
        return loader(seed=4, n=4)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.counter += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.called.append(f"load {state}")

    def teardown(self, stage: str) -> None:
        self.called.append(f"teardown {getattr(stage, 'value', stage)}")


class Evaluating(SomebodysModule):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.called.append("evaluated")

    test_step = validation_step


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_hooks_loaders_and_state_of_the_users_datamodule_stay_in_use(tmp_path: Path) -> None:
    own = Everything()
    data = ForgetRetainData(own, loader(seed=2, n=8))
    module = Evaluating()
    trainer = quiet(limit_val_batches=1, callbacks=[Unlearn(GradientAscent())])
    trainer.fit(module, datamodule=data)
    assert own.called == ["prepare_data", "setup fit of True", "teardown fit"]
    assert own.counter >= 2 + 2 + 1  # retain, forget, validation
    assert "evaluated" in module.called
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    trainer.test(module, datamodule=data, verbose=False)
    resumed = Everything()
    quiet(max_epochs=2, callbacks=[Unlearn(GradientAscent())]).fit(
        Evaluating(), datamodule=ForgetRetainData(resumed, loader(seed=2, n=8)), ckpt_path=tmp_path / "c.ckpt"
    )
    assert any(call.startswith("load {'counter': ") for call in resumed.called)


def test_a_plain_loader_brings_no_evaluation() -> None:
    data = ForgetRetainData(loader(seed=1), loader(seed=2))
    from lightning.pytorch.utilities.model_helpers import is_overridden

    assert not is_overridden("val_dataloader", data)
    assert not is_overridden("on_after_batch_transfer", data)


class Recording(SomebodysModule):
    """Remembers what it was trained on."""

    def __init__(self) -> None:
        super().__init__("sgd")
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(int(batch[1].sum() * 1000 + batch[0].sum() * 100))
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:The dirpath has changed")
@pytest.mark.parametrize("limit", [None, 4])
@pytest.mark.parametrize("interrupted_at", [2, 4, 6, 7])
def test_interrupted_anywhere_the_rest_of_the_batches_follows(
    limit: int | None, interrupted_at: int, tmp_path: Path
) -> None:
    """Six batches an epoch, or four with `limit_train_batches`."""

    def fit(folder: str, path: Path | None = None) -> list[int]:
        module = Recording()
        data = ForgetRetainData(loader(1, n=24), loader(2, n=24), order=RandomOrder())
        kept = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(
            callbacks=[kept, Unlearn(GradientAscent())],
            enable_checkpointing=True,
            max_epochs=3,
            limit_train_batches=limit,
        )
        trainer.fit(module, datamodule=data, ckpt_path=path)
        return module.seen

    whole = fit("whole")
    assert len(set(whole)) == len(whole) == 3 * (limit or 6)
    assert fit("resumed", tmp_path / "whole" / f"step={interrupted_at}.ckpt") == whole[interrupted_at:]


class Asked(Dataset[Any]):
    """Remembers which rows were asked for."""

    def __init__(self, seed: int) -> None:
        self.rows, self.asked = examples(seed, 16), list[int]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return self.rows[index]


@every_order
@pytest.mark.parametrize(("limit", "steps"), [(None, 4), (2, 2), (0.75, 3)])
def test_pairs_meet_also_where_the_trainer_cuts_epochs(order: Order, limit: float | None, steps: int) -> None:
    kept, gone = Asked(1), Asked(2)
    data = ForgetRetainData(DataLoader(kept, 4), DataLoader(gone, 4), order=order)
    trainer = quiet(callbacks=[Unlearn(GradientAscent())], max_epochs=3, limit_train_batches=limit)
    trainer.fit(SomebodysModule("sgd"), datamodule=data)
    epochs = [order.rows(RowSet(range(16), 4), RowSet(range(16), 4), seed=0, epoch=epoch) for epoch in range(3)]
    visited = 3 * 4 * steps
    assert kept.asked[-visited:] == [row for epoch in epochs for row in epoch.retain[: 4 * steps]]
    assert gone.asked[-visited:] == [row for epoch in epochs for row in epoch.forget[: 4 * steps]]


def test_loader_says_where_it_is() -> None:
    batches = ResumableLoader(range(6), 2)
    assert batches.state_dict() == {"served": 0}
    iterator = iter(batches)
    assert next(iterator).tolist() == [0, 1]
    assert batches.state_dict() == {"served": 1}
    again = ResumableLoader(range(6), 2)
    again.load_state_dict(batches.state_dict())
    assert [b.tolist() for b in again] == [[2, 3], [4, 5]]
    assert again.state_dict() == {"served": 0}
    assert [b.tolist() for b in again] == [[0, 1], [2, 3], [4, 5]]  # the next epoch is whole
    assert [b.tolist() for b in iterator] == [[2, 3], [4, 5]]


def test_ranks_share_pairs() -> None:
    """Lightning leaves our sampler as it is, and each rank gets every other pair."""

    def on_rank(rank: int, world_size: int) -> Any:
        seen = []

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.w = torch.nn.Parameter(torch.zeros(()))

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.extend(batch.tolist())
                return self.w * 0

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data = ForgetRetainData(numbered(7, shuffle=True), numbered(4), order=CyclicOrder())
        trainer = quiet(strategy="ddp", devices=world_size)
        trainer.fit(Module(), datamodule=data)
        stream = forget_stream(data, rank=rank, world_size=world_size)
        return seen, rows(next(stream) for _ in range(2))

    (kept0, gone0), (kept1, gone1) = run_ranks(on_rank)
    assert (kept0, kept1) == ([0, 2, 4, 6], [1, 3, 5, 0])
    assert (gone0, gone1) == ([0, 2, 0, 2], [1, 3, 1, 0])


def test_a_fit_draws_the_same_random_numbers_with_and_without_forget_data() -> None:
    def drawn(callbacks: list[Any]) -> Any:
        torch.manual_seed(3)
        retain = DataLoader(examples(1), 4, sampler=RandomSampler(examples(1)))
        module = Recording()
        quiet(callbacks=callbacks, max_epochs=2).fit(module, retain)
        return module.seen, torch.rand(3).tolist()

    forget = loader(seed=2, shuffle=True)
    assert drawn([Unlearn(GradientAscent(), forget=forget)]) == drawn([])


def test_further_probes_are_splits_of_their_own_in_order_and_nothing_is_renamed() -> None:
    data = ForgetRetainData(
        retain=numbered(4),
        forget=numbered(2),
        probes={"holdout": DataLoader(range(7, 12), 2, shuffle=True, drop_last=True)},
    )
    data.prepare_data()
    data.setup("fit")
    splits = data.probe_dataloaders()
    assert list(splits) == ["forget", "retain", "holdout"]
    assert rows(splits["holdout"]) == [7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match=r"`probes` should name further splits, such as `holdout`. Found `forget`"):
        ForgetRetainData(retain=numbered(4), forget=numbered(2), probes={"forget": numbered(2)})
