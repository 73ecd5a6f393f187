"""Their epoch, samplers, `drop_last` and loaders' own `__iter__` stay theirs."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet
from _shapes import SHAPES, Classifier
from lightning.pytorch.utilities import CombinedLoader
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

from lightning_unlearn import (
    NPO,
    Bounded,
    CyclicOrder,
    DisruptionBudget,
    ForgetRetainData,
    GradientAscent,
    PassiveRecovery,
    RandomOrder,
    RecoveryCheck,
    Relearn,
    SubspaceGuard,
    Unlearn,
    Wanda,
)
from lightning_unlearn.data import in_order
from lightning_unlearn.guards import InputSubspace
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout, content_key


def ascent(**kwargs: Any) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=4.0), **kwargs)


class Recording(SomebodysModule):
    """Keeps the inputs that it was trained on; its schedule knows the length of its epoch."""

    def __init__(self, steps: int = 12) -> None:
        super().__init__()
        self.steps = steps
        self.trained: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trained.append(batch[0].clone())
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained(*callbacks: pl.Callback, **data: Any) -> list[Any]:
    torch.manual_seed(3)
    module = Recording()
    quiet(max_epochs=2, callbacks=list(callbacks)).fit(module, **data)
    return module.trained


def test_the_epoch_is_the_users_with_a_forget_set_beside_it() -> None:
    """A schedule that counts on 12 steps gets 12: the same batches, in the order of the user's own sampler."""
    plain = trained(train_dataloaders=loader(1, shuffle=True))
    data = ForgetRetainData(retain=loader(1, shuffle=True), forget=loader(2, n=8))
    beside = trained(ascent(), datamodule=data)
    given = trained(ascent(forget=loader(2, n=8)), train_dataloaders=loader(1, shuffle=True))
    assert len(plain) == len(beside) == len(given) == 12
    for theirs in (beside, given):
        assert all(torch.equal(a, b) for a, b in zip(plain, theirs, strict=True))


class Numbered(IterableDataset[Any]):
    """No rows that could be asked for by number."""

    def __iter__(self) -> Any:
        return ((torch.full((8,), float(i)), i % 5) for i in range(16))


class Reversed(Sampler[int]):
    """A rule of its own."""

    def __iter__(self) -> Any:
        return iter(range(15, -1, -1))

    def __len__(self) -> int:
        return 16


PERSISTENT: dict[str, Any] = {
    "iterable": lambda **kwargs: DataLoader(Numbered(), 4, **kwargs),
    "own sampler": lambda **kwargs: DataLoader(list(Numbered()), 4, sampler=Reversed(), **kwargs),
}
LOOKING: dict[str, Any] = {
    "budget": lambda: [DisruptionBudget(kl=1e6)],
    "subspace": lambda: [ascent(forget=loader(2, n=8)), SubspaceGuard(InputSubspace(), batches=2)],
    "check": lambda: [ascent(forget=loader(2, n=8)), RecoveryCheck({"relearn": Relearn(steps=1)}, every_n_steps=1)],
}


@pytest.mark.filterwarnings("ignore:All trained parameters should be protected")
@pytest.mark.parametrize("looking", LOOKING)
@pytest.mark.parametrize("kind", PERSISTENT)
def test_no_batch_is_lost_where_workers_persist(kind: str, looking: str) -> None:
    """Their one iterator is in flight when callbacks look at what the fit trains on."""
    plain, beside = (
        trained(*callbacks, train_dataloaders=PERSISTENT[kind](num_workers=1, persistent_workers=True))
        for callbacks in ([], LOOKING[looking]())
    )
    assert len(plain) == 8
    assert all(torch.equal(a, b) for a, b in zip(plain, beside, strict=True))


@pytest.mark.parametrize(("order", "length"), [(RandomOrder(), 2), (CyclicOrder(), 6)])
def test_another_epoch_is_a_choice_and_is_announced_with_both_lengths(
    order: Any, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = ForgetRetainData(retain=loader(1), forget=loader(2, n=8), order=order)
    with caplog.at_level(logging.INFO):
        assert len(trained(ascent(), datamodule=data)) == 2 * length
    assert f"An epoch has {length} batches" in caplog.text
    assert "the retain data alone have 6" in caplog.text


@pytest.mark.parametrize("order", [None, RandomOrder(), CyclicOrder()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("given_to", ["Unlearn", "datamodule"])
def test_drop_last_is_kept(order: Any, given_to: str) -> None:
    """BatchNorm refuses a batch of one, which both sets would end with."""
    shape = SHAPES["BatchNorm and dropout"]
    retain, forget = shape.retain(33, drop_last=True), shape.forget(17, drop_last=True, shuffle=True)
    trainer = quiet(max_epochs=3, callbacks=[ascent(forget=forget if given_to == "Unlearn" else None)])
    trainer.fit(shape.module(), datamodule=ForgetRetainData(retain, forget, order=order))
    assert trainer.global_step == 3 * (4 if isinstance(order, RandomOrder) else 8)  # of 33 retain and 17 forget rows


class Prepared(DataLoader[Any]):
    """Scales its batches while it is iterated."""

    calls = 0

    def __iter__(self) -> Any:
        for x, y in super().__iter__():
            type(self).calls += 1
            yield (x - 100) / 10, y


class ByIterator(DataLoader[Any]):
    """Wraps the iterator instead."""

    def _get_iterator(self) -> Any:
        return ((((x - 100) / 10), y) for x, y in super()._get_iterator())


@pytest.mark.parametrize("kind", [Prepared, ByIterator])
def test_a_loader_that_prepares_its_batches_is_used_as_it_is(kind: type[DataLoader[Any]]) -> None:
    """In every pass over it: forgetting, the sweep of a reference, probes, attacks."""
    x, y = examples(4, n=8).tensors
    far = TensorDataset(100 + 10 * x, y)

    class Seen(Classifier):
        largest = 0.0

        def forward(self, x: Any) -> Any:
            self.largest = max(self.largest, float(x.abs().max()))
            return super().forward(x)

    callbacks = [Unlearn(NPO(), forget=kind(far, 4)), RecoveryCheck({"relearn": Relearn(steps=2)})]
    module = Seen()
    module.net[-1] = torch.nn.Linear(16, 5)
    quiet(max_epochs=1, callbacks=callbacks).fit(module, loader(1))
    assert 1 < module.largest < 10
    assert sum(len(y) for _, y in in_order(kind(far, 4))) == 8
    assert torch.allclose(next(iter(in_order(kind(far, 4))))[0], x[:4], atol=1e-4)


class TwoSets(pl.LightningModule):
    """Trains on what several loaders give, by name or by place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 5)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = batch.values() if isinstance(batch, dict) else batch
        return sum(F.cross_entropy(self.net(x), y) for x, y in parts)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OfEach(Readout):
    """One row per batch: minus the sum of all log-likelihoods."""

    def __call__(self, network: Any, batch: Any) -> Prediction:
        x, y = zip(*(batch.values() if isinstance(batch, dict) else batch), strict=True)
        labels = torch.cat(y)
        return Prediction(network.net(torch.cat(x)), labels, torch.arange(len(labels)), len(labels))

    def keys(self, batch: Any) -> list[str]:
        x, y = zip(*(batch.values() if isinstance(batch, dict) else batch), strict=True)
        return [content_key(*pair) for pair in zip(torch.cat(x), torch.cat(y), strict=True)]


@pytest.mark.parametrize("kind", [dict, list, CombinedLoader])
def test_several_loaders_for_what_stays_and_for_what_goes(kind: Any) -> None:
    """Retain batches reach `training_step` as before; forget batches have the same form; checks see both."""

    def several(seed: int) -> Any:
        parts = {"a": loader(seed, n=8), "b": loader(seed + 1, n=12)}
        return parts if kind is dict else list(parts.values()) if kind is list else CombinedLoader(parts, "min_size")

    check = RecoveryCheck(readout=OfEach())
    trainer = quiet(max_epochs=1, callbacks=[ascent(forget=several(1), readout=OfEach()), check])
    trainer.fit(TwoSets(), several(3))
    assert trainer.global_step == (2 if kind is CombinedLoader else 3)
    assert trainer.callback_metrics["unlearn/forget_norm"] > 0
    assert {o.split: len(o.scores) for o in check.observations if o.metric == "token_nll"} == dict.fromkeys(
        ["forget", "retain"], 16 if kind is CombinedLoader else 24
    )


class Batches:
    """Batches, and how many there are."""

    def __init__(self) -> None:
        self.loader = loader(1)

    def __iter__(self) -> Any:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


class Unsized:
    def __iter__(self) -> Any:
        return iter(loader(1))


@pytest.mark.parametrize("kind", [Batches, Unsized])
def test_batches_of_a_class_of_its_own_are_retain_data_and_none_is_lost(kind: Any) -> None:
    check = RecoveryCheck({"wanda": Wanda(0.3)}, probes={"forget": loader(2)}, every_n_steps=1)
    plain, beside = (trained(*callbacks, train_dataloaders=kind()) for callbacks in ([], [check]))
    assert len(plain) == 12
    assert all(torch.equal(a, b) for a, b in zip(plain, beside, strict=True))
    assert not check.failures
    assert {o.split for o in check.observations if o.attack == "wanda"} == {"forget", "retain"}


def test_several_loaders_are_retain_data_of_attacks_too() -> None:
    two = [{"a": next(iter(loader(5))), "b": next(iter(loader(6)))}]
    check = RecoveryCheck(
        {"recover": PassiveRecovery(0.5, steps=2)}, readout=OfEach(), probes={"forget": two}, attack_data=two
    )
    trainer = quiet(max_epochs=1, callbacks=[check])
    trainer.fit(TwoSets(), {"a": loader(1, n=8), "b": loader(2, n=12)})
    assert trainer.global_step == 3
    assert not check.failures


def test_batches_that_come_only_once_are_left_to_the_fit() -> None:
    check = RecoveryCheck({"wanda": Wanda(0.3)}, probes={"forget": loader(2)})
    trainer = quiet(max_epochs=1, callbacks=[check])
    with pytest.warns(UserWarning, match=r"training data that can be gone through again\. Found `generator`"):
        trainer.fit(SomebodysModule(), (batch for batch in loader(1)))
    assert trainer.global_step == 6
    assert {o.split for o in check.observations} == {"forget"}


class FromTheModule(Classifier):
    """The loaders are the module's own methods."""

    def __init__(self) -> None:
        super().__init__()
        self.net[-1] = torch.nn.Linear(16, 5)

    def train_dataloader(self) -> Any:
        return loader(1)

    def forget_dataloader(self) -> Any:
        return loader(2, n=8)


def test_loaders_of_the_module_itself() -> None:
    module, callback = FromTheModule(), ascent()
    trainer = quiet(max_epochs=1, callbacks=[callback, RecoveryCheck()])
    trainer.fit(module)
    assert trainer.global_step == 6
    assert trainer.callback_metrics["unlearn/forget_norm"] > 0


def test_a_loader_that_never_ends_is_refused_where_it_would_be_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_unlearn.data._loaders._MOST_BATCHES", 50)

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            while True:
                yield torch.zeros(8), torch.tensor(1)

    endless = DataLoader(Endless(), 4)
    # As a stream it is welcome.
    quiet(max_epochs=1, callbacks=[ascent(forget=endless)]).fit(SomebodysModule(), loader(1))
    with pytest.raises(ValueError, match=r"should come to an end\. Found 50 batches of a `DataLoader`"):
        quiet(max_epochs=1, callbacks=[Unlearn(NPO(), forget=endless)]).fit(SomebodysModule(), loader(1))
    assert sum(1 for _ in in_order([1] * 50)) == 50  # as many as that are fine


def test_orders_go_on_where_the_loader_is_combined() -> None:
    """Retain data of several loaders keep their own epoch, and what an order needs is said."""
    several = CombinedLoader([loader(1), loader(3)], "max_size")
    data = ForgetRetainData(retain=several, forget=loader(2), order=CyclicOrder())
    with pytest.raises(
        ValueError, match=r"Found a `CombinedBatches` of retain data that is no `DataLoader`.*`order=None`"
    ):
        data.train_dataloader()
    assert ForgetRetainData(retain=several, forget=loader(2)).train_dataloader() is several
