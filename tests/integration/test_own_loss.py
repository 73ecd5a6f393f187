"""Fits whose loss no readout knows: they forget, are guarded, attacked and reported by the user's own loss."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import SomebodysModule, examples, loader, quiet, same
from _own_losses import (
    BY_BATCH,
    OWN_LOSSES,
    Embedding,
    Normalised,
    Regression,
    Segmentation,
    Shape,
    Smoothed,
    Softmax,
    integer,
)
from _ranks import run_ranks
from _shapes import tiny_seq2seq
from _sharded_fits import STRATEGIES, whole
from lightning.pytorch.strategies import DDPStrategy
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    NPO,
    AdapterDisabled,
    BilevelUnlearn,
    Bounded,
    CachedLogLikelihood,
    ClassificationReadout,
    FinetuneFirst,
    ForgetRetainData,
    FrozenCopy,
    GradientAscent,
    KLToReference,
    Quantize,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
    WriteReport,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.engine import decided_readout
from lightning_unlearn.guards import PerExample
from lightning_unlearn.metrics import ExactMemorization
from lightning_unlearn.objectives import UniformLabel
from lightning_unlearn.readouts import TrainingStepReadout

every = pytest.mark.parametrize("kind", OWN_LOSSES, ids=lambda kind: kind.__name__)
LOGGER = "lightning.pytorch.utilities.rank_zero"


def data_of(kind: type[Shape], **kwargs: Any) -> ForgetRetainData:
    return ForgetRetainData(retain=kind.loader(0), forget=kind.loader(1, 8), **kwargs)


def fit(module: Any, *callbacks: Any, data: Any = None, **kwargs: Any) -> pl.Trainer:
    trainer = quiet(callbacks=list(callbacks), **kwargs)
    trainer.fit(module, datamodule=data_of(type(module)) if data is None else data)
    return trainer


def forget_loss(module: Shape) -> float:
    module.eval()
    losses = []
    for batch in type(module).loader(1, 8):
        if hasattr(module, "hidden"):
            module.hidden = None
        losses.append(module.loss(batch).item())
    return sum(losses) / len(losses)


@every
def test_the_loss_of_what_must_go_rises(kind: type[Shape]) -> None:
    torch.manual_seed(0)
    plain, forgetting = kind(), kind()
    quiet(max_epochs=3).fit(plain, kind.loader(0))
    torch.manual_seed(0)
    fit(forgetting, Unlearn(GradientAscent(), weight=0.5), max_epochs=3)
    torch.manual_seed(0)
    kept = forget_loss(plain)
    torch.manual_seed(0)
    assert forget_loss(forgetting) > kept + 1e-4


@every
def test_everything_works_together(kind: type[Shape], tmp_path: Path) -> None:
    torch.manual_seed(0)
    callbacks = [
        Unlearn(NPO(beta=0.5)),
        StepGuard(),
        RecoveryCheck({"int4": Quantize(bits=4), "relearn": Relearn(steps=2, mode="full")}, every_n_epochs=0),
        WriteReport(tmp_path),
    ]
    fit(kind(), *callbacks)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {(o["attack"], o["subject"]) for o in report["observations"]} == {
        ("none", "original"),
        ("none", "unlearned"),
        ("int4", "original"),
        ("int4", "unlearned"),
        ("relearn", "original"),
        ("relearn", "unlearned"),
    }
    assert {o["metric"] for o in report["observations"]} == {"loss"}
    assert {o["split"] for o in report["observations"]} == {"forget", "retain"}
    assert report["summary"]["headline_metric"] == "loss"
    assert set(report["definitions"]) == {"loss", "specificity"}


def test_one_step_is_that_of_the_hand_written_loop() -> None:
    module, by_hand = Segmentation().double(), Segmentation().double()
    retain, forget = (next(iter(Segmentation.loader(seed, 4))) for seed in (0, 1))
    optimizer = by_hand.configure_optimizers()
    double = [[x.double(), y] for x, y in (retain, forget)]
    (by_hand.loss(double[0]) - 0.5 * by_hand.loss(double[1])).backward()
    optimizer.step()
    data = ForgetRetainData(retain=Segmentation.loader(0, 4), forget=Segmentation.loader(1, 4))
    fit(module, Unlearn(GradientAscent(), weight=0.5), data=data, precision="64-true")
    for a, b in zip(module.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Classifier(Shape):
    """What the default readout fits."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return self.factor * F.cross_entropy(self(batch[0]), batch[1])


class Halved(Classifier):
    factor = 0.5


class OtherLabels(Classifier):
    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), (batch[1] + 1) % 4)


class Weighted(Classifier):
    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], weight=torch.tensor([1.0, 2.0, 3.0, 4.0]), reduction="sum")


def decided(module: Shape, given: Any = None, trainer: Any = None) -> Any:
    found: list[Any] = []

    class Ask(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found.append(decided_readout(trainer, pl_module, given))

    quiet(callbacks=[Ask()]).fit(module, type(module).loader(0))
    return found[0]


@pytest.mark.parametrize("kind", [Classifier, Halved])
def test_a_constant_factor_is_no_other_loss(kind: type[Shape], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(decided(kind()), ClassificationReadout)
    assert "does not fit" not in caplog.text


@pytest.mark.parametrize("kind", [Embedding, Softmax, Smoothed, OtherLabels, Weighted])
def test_another_loss_is_noticed_with_both_numbers(kind: type[Shape], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(decided(kind()), TrainingStepReadout)
    module = kind()
    examples = [DataLoader(kind.loader(0).dataset)]  # two or three of each of the first three batches
    examples = [list(examples[0])[row] for row in (0, 4, 8, 1, 5, 9, 2, 6)]
    with torch.no_grad():
        entropy = sum(float(F.cross_entropy(module(x), y)) for x, y in examples) / 8
        loss = sum(float(module.loss(example)) for example in examples) / 8
    expected = (
        f"cross-entropy on the first training examples is {entropy:.4g}, the loss of `training_step` is {loss:.4g}"
    )
    assert expected in caplog.text


def test_a_given_readout_is_kept_and_warned_about() -> None:
    given = ClassificationReadout()
    with pytest.warns(
        UserWarning, match=r"`ClassificationReadout\(\)` should compute what `training_step` does.*is 1\.\d+"
    ):
        assert decided(Softmax(), given) is given


def test_the_choice_leaves_module_logs_and_draws_alone() -> None:
    def train(*callbacks: Any) -> tuple[Any, list[float]]:
        torch.manual_seed(0)
        module = SomebodysModule()
        quiet(callbacks=list(callbacks)).fit(module, loader(0, shuffle=True))
        return module, module.losses

    class Ask(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            decided_readout(trainer, pl_module)
            assert not trainer.callback_metrics

    (module, losses), (asked, other) = train(), train(Ask())
    assert losses == other
    assert same(module, asked)


def test_all_of_a_fit_use_one_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_unlearn.engine import _decided_readout

    calls = []
    whole = _decided_readout.compared
    monkeypatch.setattr(_decided_readout, "compared", lambda *a, **k: calls.append(1) or whole(*a, **k))
    check = RecoveryCheck({"relearn": Relearn(steps=1)}, every_n_epochs=0)
    fit(Embedding(), Unlearn(NPO()), StepGuard(retain=Embedding.loader(5)), check)
    assert calls == [1]


def test_objectives_that_need_logits_are_refused_by_name() -> None:
    class NoForward(Shape):
        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    for module, readout in ((Embedding(), TrainingStepReadout()), (NoForward(), None)):
        with pytest.raises(ValueError, match=r"`KLToReference` should get logits. Found `TrainingStepReadout\(\)`"):
            Unlearn(KLToReference(), readout=readout).setup(trainer_of(module), module, "fit")
    with pytest.raises(ValueError, match=r"`KLToReference` should get logits"):
        fit(Embedding(), Unlearn(KLToReference()))


def test_a_classifier_with_smoothed_labels_gives_logits_by_the_readout_that_the_refusal_names() -> None:
    """That it is not what `training_step` computes is said once more, and it is used all the same."""
    with pytest.raises(ValueError, match=r"label smoothing.*`readout=ClassificationReadout\(\)`"):
        fit(Smoothed(), Unlearn(UniformLabel()))
    with pytest.warns(UserWarning, match="It is used all the same"):
        trainer = fit(Smoothed(), Unlearn(UniformLabel(), readout=ClassificationReadout()))
    assert trainer.callback_metrics["unlearn/forget"] > 0


class OfDictionaries(pl.LightningModule):
    """Somebody's batches, of names that nobody can guess."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 3)

    def forward(self, batch: Any) -> Tensor:
        said: Tensor = self.net(batch["events"])
        return said

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch), batch["tags"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_why_a_readout_does_not_fit_is_said_with_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    """An error ends with what to do: that is not what is cut off."""
    retain, forget = (
        DataLoader([{"events": torch.full((8,), x), "tags": torch.tensor(0), "device": "a", "hours": 0.5}] * 8, 4)
        for x in (1.0, 2.0)
    )
    with caplog.at_level(logging.INFO):
        fit(OfDictionaries(), Unlearn(NPO()), data=ForgetRetainData(retain=retain, forget=forget))
    (said,) = [record.message for record in caplog.records if "does not fit" in record.message]
    assert "Say where they are with `ClassificationReadout(inputs=..., labels=...)`; write a `Readout`" in said


class OfNames(pl.LightningModule):
    """Batches of names that `forward` has, too."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.net(x)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["x"]), batch["y"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class TakesApart(OfNames):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        y = batch.pop("y")
        return F.cross_entropy(self(**batch), y)


def of_names(start: float) -> DataLoader[Any]:
    return DataLoader([{"x": torch.linspace(start, i, 8), "y": i % 3} for i in range(12)], 4)


TWICE = {
    "by its readout": lambda: [Unlearn(NPO(), forget=of_names(0.5))],
    "by its own loss": lambda: [Unlearn(NPO(), forget=of_names(0.5), readout=TrainingStepReadout())],
    "example by example": lambda: [
        Unlearn(GradientAscent(), forget=of_names(0.5)),
        StepGuard(directions=PerExample(), readout=ClassificationReadout()),
    ],
    "under attack": lambda: [
        Unlearn(GradientAscent(), forget=of_names(0.5), under={"int4": Quantize(bits=4)}, under_retain=True)
    ],
    "bilevel": lambda: [BilevelUnlearn(Bounded(GradientAscent(), 2.0), forget=of_names(0.5), beta=1.0)],
}


@pytest.mark.parametrize("callbacks", TWICE.values(), ids=TWICE)
def test_a_step_that_takes_its_batch_apart_is_like_one_that_does_not(
    callbacks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    modules = [OfNames(), TakesApart()]
    with caplog.at_level(logging.INFO):
        for module in modules:
            quiet(callbacks=callbacks(), max_epochs=1).fit(module, of_names(9.0))
    assert not [record for record in caplog.records if "does not fit" in record.message]
    assert same(*modules)


def trainer_of(module: Shape) -> pl.Trainer:
    trainer = quiet()
    trainer.strategy.connect(module)
    trainer._data_connector.attach_data(module, datamodule=data_of(type(module)))
    return trainer


def test_metrics_that_need_logits_are_refused_by_name() -> None:
    check = RecoveryCheck(audits=[Measure({"memorised": ExactMemorization()})])
    with pytest.raises(ValueError, match=r"`ExactMemorization`, measured as `memorised`, should get logits"):
        fit(Regression(), Unlearn(GradientAscent(), weight=0.1), check)


def test_gradients_of_single_examples_are_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"`PerExample` should get a readout .* Use `MicroBatches\(\)`"):
        fit(Regression(), Unlearn(GradientAscent(), weight=0.1), StepGuard(directions=PerExample()))


def test_a_cache_is_refused_for_losses_of_whole_batches() -> None:
    with pytest.raises(ValueError, match=r"gives one likelihood per batch, .* Use `FrozenCopy\(\)`"):
        fit(Normalised(), Unlearn(NPO(), reference=CachedLogLikelihood()))


@pytest.mark.parametrize("reference", [None, FrozenCopy(), CachedLogLikelihood()], ids=["default", "copy", "cache"])
def test_at_the_original_npo_is_at_its_value_there(reference: Any) -> None:
    unlearn = Unlearn(NPO(beta=0.1), reference=reference)
    seen: list[float] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            seen.append(float(trainer.callback_metrics["unlearn/forget"]))

    fit(Regression(), unlearn, Look())
    assert seen[0] == pytest.approx(2 / 0.1 * 0.6931472, rel=1e-5)
    assert seen[-1] != seen[0]


@pytest.mark.parametrize("kind", [Embedding, Regression, Normalised])
def test_a_resumed_fit_is_an_uninterrupted_one(kind: type[Shape], tmp_path: Path) -> None:
    whole, resumed = kind(), kind()
    fit(whole, Unlearn(NPO(beta=0.5)), max_epochs=2)
    first = fit(kind(), Unlearn(NPO(beta=0.5)), max_epochs=1)
    first.save_checkpoint(tmp_path / "one.ckpt")
    trainer = quiet(callbacks=[Unlearn(NPO(beta=0.5))], max_epochs=2)
    trainer.fit(resumed, datamodule=data_of(kind), ckpt_path=tmp_path / "one.ckpt", weights_only=False)
    assert same(whole, resumed)


def test_a_likelihood_of_batches_is_only_where_it_has_to_be() -> None:
    for kind in OWN_LOSSES:
        readout = decided(kind(), TrainingStepReadout())
        assert readout.why_not_cached is None or kind in BY_BATCH


def fit_on(rank: int, world_size: int, kind: type[Shape], objective: Any) -> Any:
    sampler = DistributedSampler(kind.loader(0).dataset, world_size, rank, shuffle=False)
    size = 4 // world_size
    module = kind()
    unlearn = Unlearn(objective, forget=kind.loader(1, 8, size))
    trainer = quiet(
        strategy=DDPStrategy() if world_size > 1 else "auto",
        devices=world_size,
        callbacks=[unlearn],
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(sampler.dataset, size, sampler=sampler))
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    return weights, float(trainer.callback_metrics["unlearn/forget"])


@pytest.mark.slow
@pytest.mark.parametrize("objective", [NPO(beta=0.5), GradientAscent()], ids=repr)
@pytest.mark.parametrize("kind", [Regression, Segmentation])
def test_two_processes_equal_one(kind: type[Shape], objective: Any) -> None:
    expected, loss = fit_on(0, 1, kind, objective)
    for weights, loss_there in run_ranks(lambda rank, world: fit_on(rank, world, kind, objective)):
        assert loss_there == pytest.approx(loss, rel=1e-5)
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_processes_equal_one_under_every_strategy(kind: str) -> None:
    def forget(rank: int, world_size: int, kind: str | None) -> Any:
        module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
        retain, size = examples(1, n=16), 8 // world_size
        sampler = DistributedSampler(retain, world_size, rank, shuffle=False)
        module = module_class("adamw")
        unlearn = Unlearn(
            Bounded(GradientAscent(), bound=3.0), TrainingStepReadout(), forget=DataLoader(examples(2, n=8), size)
        )
        trainer = quiet(strategy=strategy(), devices=world_size, callbacks=[unlearn], use_distributed_sampler=False)
        trainer.fit(module, DataLoader(retain, size, sampler=sampler))
        return whole(module, kind)

    expected = forget(0, 1, None)
    for weights in run_ranks(lambda rank, world: forget(rank, world, kind)):
        for name in expected.keys() - {"unused"}:
            torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-6)


def test_it_teaches_first_by_the_own_loss() -> None:
    module = Regression()
    before = forget_loss(module)
    teach = FinetuneFirst(epochs=5, lr=5e-2, control=True)
    check = RecoveryCheck({"relearn": Relearn(steps=1, mode="full")}, every_n_epochs=0)
    fit(module, teach, Unlearn(GradientAscent(), weight=1e-6), check)
    assert {o.subject for o in check.observations} == {"original", "unlearned", "control"}
    original = next(o for o in check.observations if (o.subject, o.split) == ("original", "forget"))
    assert original.value < before - 0.1


def test_outside_of_a_fit_it_is_decided_too() -> None:
    check = RecoveryCheck(probes={"forget": Segmentation.loader(1), "retain": Segmentation.loader(0)})
    quiet(callbacks=[check]).validate(Validated(), Segmentation.loader(0), verbose=False)
    assert {o.metric for o in check.observations} == {"loss"}
    assert {o.split for o in check.observations} == {"forget", "retain"}


class Validated(Segmentation):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


class Translated(Shape):
    """A fresh adapter on an encoder-decoder."""

    parts = {"input_ids": integer(20, 6), "attention_mask": lambda g: torch.ones(6).long(), "labels": integer(20, 4)}

    def build(self) -> None:
        self.model = get_peft_model(tiny_seq2seq(), LoraConfig(target_modules=["q", "v"], r=2)).train()
        for part in self.model.modules():
            # Without dropout, or the network would differ from the original from the start. Attention has a number for it.
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            elif isinstance(getattr(part, "dropout", None), float):
                part.dropout = 0.0

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


def test_an_adapter_inside_the_module_is_switched_off_for_the_original() -> None:
    torch.manual_seed(0)
    unlearn, seen = Unlearn(NPO(beta=0.1)), []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            seen.append(float(trainer.callback_metrics["unlearn/forget"]))

    fit(Translated(), unlearn, Look())
    assert isinstance(unlearn._original.loss.reference, AdapterDisabled)
    assert seen[0] == pytest.approx(20 * 0.6931472, rel=1e-3)
    assert seen[-1] != seen[0]


def test_data_that_can_be_gone_through_only_once_are_not_touched() -> None:
    batches = list(Softmax.loader(0))
    once = iter(batches)
    unlearn = Unlearn(NPO(), forget=Softmax.loader(1, 8))
    trainer = quiet(callbacks=[unlearn], max_steps=len(batches), num_sanity_val_steps=0)
    trainer.fit(Softmax(), once)
    assert trainer.global_step == len(batches)
    assert isinstance(unlearn._original.loss.readout, TrainingStepReadout)
