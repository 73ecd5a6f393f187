"""Each retain example protected by itself: promises on the change of the weights, measured from outside, in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from _guarded_fits import FITS, Module, Outside, fit, unlearn
from _language_models import _SIZES as SIZES
from _language_models import batch, family
from _modules import examples, loader, quiet, same
from _ranks import run_ranks
from _scaled import scaled
from _sharded_fits import STRATEGIES, whole
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_unlearn import (
    Bounded,
    CyclicOrder,
    ForgetRetainData,
    GradientAscent,
    SubspaceGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.cli import main
from lightning_unlearn.guards import (
    Float32,
    History,
    Int8,
    MatrixFree,
    MicroBatches,
    Monitor,
    NoChange,
    NoIncrease,
    NullSpace,
    OptimizerMetric,
    PerExample,
    Rule,
)
from lightning_unlearn.readouts import ClassificationReadout

STORAGES = [Float32(), MatrixFree()]


class EachOutside(Outside):
    """The gradient of each example by a pass of its own, and the change of the weights that followed."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self._batches = [(x[j : j + 1], y[j : j + 1]) for x, y in self._batches for j in range(len(y))]
        super().on_before_optimizer_step(trainer, module, optimizer)

    def worst(self, rule: str, scope: str = "global", limit: int | None = None) -> float:
        """How far the rule is broken for any example, beyond what rounding the weights does."""
        found = []
        for rows, change, weights in zip(self.gradients, self.changes, self.weights, strict=True):
            for row in rows[:limit]:
                for scoped in [range(len(change))] if scope == "global" else [[i] for i in range(len(change))]:
                    g, d, w = (torch.cat([v[i].flatten() for i in scoped]) for v in (row, change, weights))
                    if not g.norm() or not d.norm():
                        continue
                    raised = g @ d if rule == "NoIncrease" else (g @ d).abs()
                    found.append(float((raised - 4 * 2.0**-24 * (g * (w + d)).norm()) / (g.norm() * d.norm())))
        assert len(found) >= 10
        return max(found)


FITTED = {name: FITS[name] for name in ("plain", "accumulate")}


@pytest.mark.parametrize(
    ("rule", "scope"), [(NoIncrease(), "global"), (NoChange(), "global"), (NoIncrease(), "parameter")], ids=str
)
@pytest.mark.parametrize("fitted", FITTED)
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_the_applied_change_harms_no_example(storage: Any, optimizer: str, fitted: str, rule: Rule, scope: Any) -> None:
    outside, guard = EachOutside(), StepGuard(rule, PerExample(), scope=scope, storage=storage)
    _, trainer = fit(unlearn(), guard, outside, optimizer=optimizer, **FITTED[fitted])
    assert outside.worst(type(rule).__name__, scope) <= 1e-6
    assert guard._steps["taken"] == guard._steps["transformed"] == trainer.global_step


def test_without_it_single_examples_are_harmed() -> None:
    """By the guard of their sum, too: the test above could fail."""
    outside = EachOutside()
    fit(unlearn(), StepGuard(NoIncrease()), outside)
    assert outside.worst("NoIncrease") > 1e-2


@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_a_limit_protects_the_first_of_the_step(storage: Any) -> None:
    outside = EachOutside()
    guard = StepGuard(NoChange(), PerExample(limit=5), storage=storage)
    _, trainer = fit(unlearn(), guard, outside, accumulate_grad_batches=2)
    assert trainer.callback_metrics["guard/active"] == 5
    assert outside.worst("NoChange", limit=5) <= 1e-6
    assert outside.worst("NoChange", limit=6) > 1e-2


@pytest.mark.parametrize(("rule", "fitted"), [(NoIncrease(), "accumulate"), (NoChange(), "clip_norm")], ids=str)
def test_both_storages_take_the_same_steps(rule: Rule, fitted: str) -> None:
    for precision, tolerance in (("32-true", 1e-5), ("64-true", 1e-10)):
        held, free = (
            fit(unlearn(), StepGuard(rule, PerExample(), storage=s), precision=precision, **FITS[fitted])[0]
            for s in STORAGES
        )
        bare, _ = fit(unlearn(), precision=precision, **FITS[fitted])
        moved = whole_change(held, bare)
        assert moved > 1e-2
        assert whole_change(held, free) < tolerance * moved


def whole_change(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(torch.cat([(x - y).detach().double().flatten() for x, y in pairs]).norm())


def test_in_the_optimizers_metric_too() -> None:
    outside = EachOutside()
    fit(unlearn(), StepGuard(NoChange(), PerExample(), OptimizerMetric(), storage=MatrixFree()), outside)
    assert outside.worst("NoChange") <= 1e-6


def test_what_is_logged_is_what_was_applied() -> None:
    """The mean of the examples' losses, and the worst cosine, in float64: there is nothing to allow for."""
    for storage in STORAGES:
        outside = EachOutside()
        _, trainer = fit(
            unlearn(), StepGuard(NoIncrease(), PerExample(), storage=storage), outside, precision="64-true"
        )
        d = torch.cat([c.flatten() for c in outside.changes[-1]])
        rows = [torch.cat([g.flatten() for g in row]) for row in outside.gradients[-1]]
        cosine = max(float(F.cosine_similarity(g, d, dim=0)) for g in rows)
        after = float(torch.stack(rows).mean(0) @ d)
        assert trainer.callback_metrics["guard/retain_after"] == pytest.approx(after, rel=1e-5)
        assert float(trainer.callback_metrics["guard/cosine"]) == pytest.approx(cosine, abs=1e-7)
        assert cosine < 1e-12
        assert trainer.callback_metrics["guard/retain_before"] > trainer.callback_metrics["guard/retain_after"]


@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_mixed_precision(storage: Any) -> None:
    """Protected are the gradients of float32 to the rounding of autocast, bfloat16's or float16's."""
    for options, mixed in ((FITS["bf16-mixed"], True), (scaled(2.0**10), False)):
        outside = EachOutside(mixed=mixed)
        _, trainer = fit(unlearn(), StepGuard(NoChange(), PerExample(), storage=storage), outside, **options)
        assert outside.worst("NoChange") <= 3e-2
        assert trainer.callback_metrics["guard/cosine"] < 1e-5
        assert trainer.callback_metrics["guard/fallbacks"] == 0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_loss_scale_that_overflows_is_halved() -> None:
    """The scaler skips its first steps; those it takes are guarded."""
    guard = StepGuard(NoChange(), PerExample(), storage=MatrixFree())
    _, trainer = fit(unlearn(), guard, optimizer="momentum", **scaled(2.0**20))
    assert 0 < guard._steps["taken"] == guard._steps["transformed"] < trainer.global_step
    assert trainer.callback_metrics["guard/cosine"] < 1e-5
    assert trainer.callback_metrics["guard/fallbacks"] == 0


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_examples_that_are_not_finite_undo_the_step(storage: Any, precision: str) -> None:
    options = scaled(2.0**10) if precision == "16-mixed" else {}
    labels = examples(1).tensors[1]
    broken = TensorDataset(torch.full((24, 8), float("inf")), labels)
    guard = StepGuard(NoIncrease(), PerExample(), retain=DataLoader(broken, batch_size=4), storage=storage)
    module, _ = fit(guard, **options)
    assert guard._steps == {"taken": 12, "transformed": 12, "fallbacks": 12}
    assert same(module, Module("adamw"))


# Guests' manners


class Dropping(Module):
    """Draws at random in every pass, and keeps statistics of batches."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) * (1 + 0.01 * torch.rand(()))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_a_watched_fit_is_the_fit_without_a_guard_to_the_bit(storage: Any, own: bool) -> None:
    source: dict[str, Any] = {} if own else {"retain": loader(seed=5)}

    def run(*guards: pl.Callback) -> tuple[Any, Any]:
        torch.manual_seed(0)
        return fit(unlearn(), *guards, module=Dropping(), accumulate_grad_batches=2)

    bare, plain = run()
    watched, trainer = run(StepGuard(Monitor(), PerExample(), storage=storage, **source))
    assert same(bare, watched)
    assert all(torch.equal(a, b) for a, b in zip(bare.buffers(), watched.buffers(), strict=True))
    shown = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("guard/")}
    assert shown == plain.callback_metrics
    assert trainer.callback_metrics["guard/kept"] == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_resumed_equals_uninterrupted(storage: Any, own: bool, tmp_path: Path) -> None:
    def run(folder: str, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, StepGuard]:
        source: dict[str, Any] = {} if own else {"retain": loader(seed=5)}
        guard = StepGuard(NoChange(), PerExample(limit=3), storage=storage, **source)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callbacks = [guard, Unlearn(Bounded(GradientAscent(), bound=4.0)), saved]
        trainer = quiet(callbacks=callbacks, enable_checkpointing=True, max_epochs=2, **kwargs)
        module = Module("adamw")
        data = ForgetRetainData(retain=loader(seed=1), forget=loader(seed=2), order=CyclicOrder())
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, guard

    whole, guard = run("whole")
    run("first", max_steps=5)
    resumed, again = run("second", tmp_path / "first" / "step=5.ckpt")
    assert same(whole, resumed)
    assert guard._steps == again._steps == {"taken": 12, "transformed": 12, "fallbacks": 0}


# Uses


@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_ordinary_fine_tuning_harms_no_example_of_a_retain_set(storage: Any) -> None:
    """Six examples of one batch, again and again: each keeps its loss."""
    inputs, labels = examples(1).tensors
    kept = TensorDataset(inputs[:6], (labels[:6] + 1) % 5)

    @torch.no_grad()
    def losses(module: Any) -> Tensor:
        return F.cross_entropy(module(kept.tensors[0]), kept.tensors[1], reduction="none")

    before = losses(Module())
    bare, _ = fit(optimizer="sgd")
    guarded, trainer = fit(
        StepGuard(NoIncrease(), PerExample(), retain=DataLoader(kept, batch_size=6), storage=storage), optimizer="sgd"
    )
    assert (losses(bare) - before).max() > 0.05
    assert (losses(guarded) - before).max() < 0.2 * (losses(bare) - before).max()
    assert trainer.callback_metrics["guard/cosine"] < 1e-6


NETWORKS = {
    "llama": lambda: family("llama"),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "gpt2": lambda: family("gpt2"),
    "lora": lambda: family("llama", lora=True),
}


class Language(pl.Callback):
    """Gradients of each row of the batch, by autograd, at the weights before the step, and what became of these."""

    def __init__(self) -> None:
        self.worst = -1.0

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.params = [p for p in module.parameters() if p.requires_grad]
        self.before = [p.detach().double().clone() for p in self.params]
        self.rows = [[g.double() for g in torch.autograd.grad(loss, self.params)] for loss in self.losses(module)]

    def losses(self, module: Any) -> list[Tensor]:
        one = batch()
        out = []
        for j in range(2):  # the third has nothing supervised
            logits = module.network(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits
            out.append(F.cross_entropy(logits[j, :-1], one["labels"][j, 1:]))
        return out

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        change = [p.detach().double() - b for p, b in zip(self.params, self.before, strict=True)]
        d, w = (torch.cat([v.flatten() for v in vector]) for vector in (change, self.before))
        for row in self.rows:
            g = torch.cat([v.flatten() for v in row])
            allowed = 4 * 2.0**-24 * (g * (w + d)).norm()
            self.worst = max(self.worst, float(((g @ d).abs() - allowed) / (g.norm() * d.norm())))


def fit_language(name: str, storage: Any, **kwargs: Any) -> tuple[nn.Module, float]:
    """Padded rows, one of them all prompt."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    module = UnlearningModule(network, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    guard, outside = StepGuard(NoChange(), PerExample(), storage=storage), Language()
    forgetting = Unlearn(GradientAscent(), forget=rows(other(batch("left", rows=(1, 0)))))
    trainer = quiet(callbacks=[forgetting, guard, outside], max_steps=3, **kwargs)
    trainer.fit(module, rows(batch()))
    assert trainer.callback_metrics["guard/active"] == 2
    assert guard._steps == {"taken": 3, "transformed": 3, "fallbacks": 0}
    return network, outside.worst


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("storage", STORAGES, ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_language_models_are_guarded(name: str, storage: Any) -> None:
    _, worst = fit_language(name, storage)
    assert worst < 1e-6


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("name", NETWORKS)
def test_language_models_take_the_same_steps_with_both_storages(name: str) -> None:
    """In float64, since Adam makes whole steps of gradients that are nothing but rounding, as of the biases of keys."""
    held, free = (fit_language(name, storage, precision="64-true")[0] for storage in STORAGES)
    torch.manual_seed(0)
    moved = whole_change(held, NETWORKS[name]())
    assert moved > 1e-2
    assert whole_change(held, free) < (1e-10 if name == "gpt2" else 1e-5) * moved  # norms of Llama compute in float32


def other(one: dict[str, Tensor]) -> dict[str, Tensor]:
    """Answers with other tokens."""
    supervised = one["labels"] != -100
    tokens = one["input_ids"].where(~supervised, 25 - one["input_ids"])
    return {**one, "input_ids": tokens, "labels": tokens.where(supervised, -100)}


def rows(one: dict[str, Tensor]) -> DataLoader[Any]:
    data = [{name: value[j] for name, value in one.items()} for j in range(len(one["labels"]))] * 3
    return DataLoader(data, batch_size=len(one["labels"]))


# Several processes


class Averaged(EachOutside):
    """The j-th direction is the mean of the j-th examples of all ranks."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        super().on_before_optimizer_step(trainer, module, optimizer)
        self.gradients[-1] = self.gradients[-1][: 3 if self.is_uneven and len(self.gradients) % 2 == 0 else 4]
        for row in self.gradients[-1]:
            for g in row:
                torch.distributed.all_reduce(g)

    is_uneven = False


def fit_ranks(kind: str, rank: int, storage: Any = None, uneven: bool = False) -> Any:
    module_class, strategy = STRATEGIES[kind]
    module = module_class("adamw")
    outside = Averaged()
    outside.is_uneven = uneven
    count = 7 if uneven and rank == 1 else 8
    forgetting = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(2), weight=10.0)
    guard = StepGuard(NoChange(), PerExample(), storage=storage)
    trainer = quiet(
        strategy=strategy(),
        devices=2,
        callbacks=[forgetting, guard, *([outside] if kind == "ddp" else [])],
        use_distributed_sampler=False,
        max_epochs=4,
    )
    trainer.fit(module, DataLoader(examples(10 + rank, count), batch_size=4))
    assert guard._steps == {"taken": 8, "transformed": 8, "fallbacks": 0}
    assert trainer.callback_metrics["guard/cosine"] < 1e-5
    return whole(module, kind), outside.worst("NoChange") if kind == "ddp" else 0.0


@pytest.mark.slow
@pytest.mark.parametrize("uneven", [False, True])
def test_ranks_protect_the_means_of_their_examples(uneven: bool) -> None:
    for _, worst in run_ranks(lambda rank, world: fit_ranks("ddp", rank, uneven=uneven)):
        assert worst <= 1e-6


@pytest.mark.slow
def test_shards_take_the_same_steps_as_replicas() -> None:
    replicas, *others = (
        run_ranks(lambda rank, world, k=k: fit_ranks(k, rank))[0][0] for k in ("ddp", "fsdp2", "fsdp1")
    )
    for shards in others:
        for name in replicas.keys() - {"unused"}:  # which FSDP1 lets decay, with or without us
            assert_close(shards[name], replicas[name], rtol=0, atol=2e-6)


def test_matrix_free_is_refused_in_several_processes() -> None:
    with pytest.raises(
        AssertionError, match=r"should run in one process.*Found `world_size = 2`. Use `storage=Float32"
    ):
        run_ranks(lambda rank, world: fit_ranks("ddp", rank, MatrixFree()))


# Refusing and building


@pytest.mark.parametrize("directions", [None, MicroBatches(), History(3)], ids=repr)
def test_other_directions_are_not_matrix_free(directions: Any) -> None:
    with pytest.raises(ValueError, match=r"should go with gradients of single examples.*Use `directions=PerExample"):
        StepGuard(directions=directions, storage=MatrixFree())


class Opaque:
    """A batch that nobody but its readout can look into."""

    def __init__(self, rows: list[Any]) -> None:
        self.inputs, self.labels = (torch.stack(column) for column in zip(*rows, strict=True))


class OpaqueReadout(ClassificationReadout):
    def __call__(self, network: nn.Module, batch: Any) -> Any:
        return super().__call__(network, (batch.inputs, batch.labels))

    def keys(self, batch: Any) -> list[str]:
        return super().keys((batch.inputs, batch.labels))


def test_what_cannot_be_is_refused_by_name() -> None:
    class Convolved(Module):
        def __init__(self) -> None:
            super().__init__("adamw")
            self.body = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 1), nn.Flatten())

    class Batchwise(Module):
        def __init__(self) -> None:
            super().__init__("adamw")
            self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, track_running_stats=False))

    with pytest.raises(ValueError, match="`limit` should be at least 1.*Found `limit = 0`"):
        PerExample(limit=0)
    with pytest.raises(NotImplementedError, match=r"Found `body.1.weight`, of shape \(2, 1, 1\), somewhere else"):
        fit(unlearn(), StepGuard(directions=PerExample(), storage=MatrixFree()), module=Convolved())
    fit(unlearn(), StepGuard(directions=PerExample()), module=Convolved())
    for storage in STORAGES:
        opaque = DataLoader(examples(5), batch_size=4, collate_fn=Opaque)
        guard = StepGuard(directions=PerExample(limit=2), storage=storage, retain=opaque, readout=OpaqueReadout())
        with pytest.raises(NotImplementedError, match="Found a `Opaque` of 4 examples that still has 4 when cut to"):
            fit(guard)
        with pytest.raises(NotImplementedError, match="Found `track_running_stats=False` in `body.1`"):
            fit(unlearn(), StepGuard(directions=PerExample(), storage=storage), module=Batchwise())
    with pytest.raises(ValueError, match="should find what to protect"):
        fit(StepGuard(directions=PerExample()))


def test_yaml_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = {"records": {"path": "bundled:people"}, "encoding": {"tokenizer": "bundled"}}
    source = {"class_path": "lightning_unlearn.QuestionAnswerData", "init_args": people}
    network = {
        "class_path": "lightning_unlearn.TinyCausalLM",
        "init_args": {"hidden_size": 32, "num_hidden_layers": 1},
    }
    directions = {"class_path": "lightning_unlearn.guards.PerExample", "init_args": {"limit": 8}}
    guard = {
        "class_path": "lightning_unlearn.StepGuard",
        "init_args": {"directions": directions, "storage": {"class_path": "lightning_unlearn.guards.MatrixFree"}},
    }
    config = {
        "model": {"class_path": "lightning_unlearn.UnlearningModule", "init_args": {"network": network}},
        "data": {"class_path": "lightning_unlearn.ForgetRetainData", "init_args": {"retain": source, "forget": source}},
        "unlearn": {"objective": {"class_path": "lightning_unlearn.NPO"}},
        "trainer": {"callbacks": [guard], "accelerator": "cpu", "logger": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])
    cli = main(["--config", str(tmp_path / "config.yaml")], run=False)
    (built,) = [c for c in cli.trainer.callbacks if isinstance(c, StepGuard)]
    assert repr(built.directions) == "PerExample(limit=8)"
    assert isinstance(built.storage, MatrixFree)


@pytest.mark.parametrize("storage", STORAGES, ids=repr)
def test_forgetting_by_an_optimizer_of_its_own_harms_no_example(storage: Any) -> None:
    """Nor helps any: with `Null` what is logged of the forget step, on weights in float64, is zero."""
    own = unlearn(optimizer=lambda params: torch.optim.Adam(params, lr=1e-2))
    guard = StepGuard(NoChange(), PerExample(), storage=storage)
    module, trainer = fit(own, guard, precision="64-true")
    assert trainer.callback_metrics["guard/cosine"] < 1e-12
    assert abs(trainer.callback_metrics["guard/retain_before"]) > 1e-4
    assert guard._steps["transformed"] == trainer.global_step
    assert not same(module, fit(unlearn(), precision="64-true")[0])


@pytest.mark.parametrize("storage", [MatrixFree(), Int8()], ids=repr)
def test_what_is_not_held_as_it_is_is_refused_beside_a_subspace(storage: Any) -> None:
    parts = [StepGuard(NoIncrease(), PerExample(), storage=storage), SubspaceGuard(NullSpace())]
    with pytest.raises(NotImplementedError, match=r"should stand beside no restriction.*Use `storage=Float32"):
        fit(unlearn(), *parts)
