"""Each adapter, and what goes with it, in a fit: from YAML, in two processes, resumed; what it does not train stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from _modules import CLASSES, loader, quiet, same
from _ranks import run_ranks
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import (
    Adapted,
    Bounded,
    ClassificationReadout,
    Experts,
    FindPrototypes,
    GradientAscent,
    GroupSparse,
    TinyCausalLM,
    TrainOnly,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.cli import main
from lightning_unlearn.models import LoRA, TokenMixing
from lightning_unlearn.models.layers import in_adapter
from lightning_unlearn.objectives import PrototypePull, PrototypePush
from lightning_unlearn.readouts import EmbeddingReadout
from lightning_unlearn.transforms import OnlyIn

SIZES = {"hidden_size": 16, "num_hidden_layers": 2}


def part(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"lightning_unlearn.{name}", "init_args": settings}


def lora() -> nn.Module:
    """An adapter that is built by its import path."""
    return LoRA(r=2).wrap(TinyCausalLM(**SIZES))


TINY = part("TinyCausalLM", SIZES)
PEFT = {"class_path": f"{__name__}.lora", "init_args": {}}
HIDDEN = part("readouts.HiddenStateReadout", {"layer": "layers.0"})
ONLY = [part("transforms.OnlyIn", {"patterns": ["*_forget"]})]
# A network, what is added to `unlearn`, callbacks, and the names of what is trained.
CASES: dict[str, tuple[Any, dict[str, Any], list[Any]]] = {
    "experts": (
        part("Adapted", {"network": TINY, "adapter": part("models.Experts", {"r": 2, "other_tokens": [7]})}),
        {"transforms": ONLY},
        [],
    ),
    "mixing": (part("Adapted", {"network": TINY, "adapter": part("models.TokenMixing", {"r": 4})}), {}, []),
    "group sparse": (PEFT, {}, [part("GroupSparse", {"alpha": 0.1, "warmup_steps": 1})]),
    "reg lora": (PEFT, {}, [part("RegLoRA", {"file": "protected.safetensors"})]),
    "prototypes": (
        PEFT,
        {"objective": part("objectives.PrototypePush", {"bound": 20.0}), "readout": HIDDEN},
        [part("FindPrototypes", {})],
    ),
}


def people(first: int, last: int) -> dict[str, Any]:
    records = {"path": "bundled:people", "rows": [first, last]}
    return part("QuestionAnswerData", {"records": records, "encoding": {"tokenizer": "bundled"}})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-unlearn"])


def run(name: str, steps: int = 2) -> Any:
    network, unlearn, callbacks = CASES[name]
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2, "weight_decay": 0.1}}
    silent = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
    config = {
        "seed_everything": 0,
        "model": part("UnlearningModule", {"network": network, "optimizer": optimizer}),
        "data": part("ForgetRetainData", {"retain": people(8, 24), "forget": people(0, 8)}),
        "unlearn": {"objective": part("GradientAscent", {}), **unlearn},
        "recovery": {"every_n_epochs": 0},
        "trainer": {
            **silent,
            "max_steps": steps,
            "accelerator": "cpu",
            "devices": 1,
            "limit_val_batches": 0,
            "callbacks": callbacks,
        },
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    return main(["fit", "--config", "fit.yaml"])


@pytest.mark.filterwarnings("ignore:A prototype should be the mean of several embeddings")  # of tokens, many once
@pytest.mark.parametrize("name", CASES)
def test_from_a_file_it_trains_the_adapter_and_nothing_else(name: str) -> None:
    cli = run(name)
    original = dict(TinyCausalLM(**SIZES).named_parameters())
    moved, kept = [], 0
    start = dict(run(name, steps=0).model.network.named_parameters())
    for param_name, p in cli.model.network.named_parameters():
        if torch.equal(p, start[param_name]):
            kept += 1
        else:
            moved.append(param_name)
    assert moved
    assert all(in_adapter(n) for n in moved)
    assert kept >= len(original)
    assert cli.trainer.global_step == 2


def test_a_second_request_reads_what_the_first_has_protected() -> None:
    run("reg lora")
    assert Path("protected.safetensors").is_file()
    cli = run("reg lora")
    assert cli.trainer.callback_metrics["reg_lora/penalty"] > 0


# Forgetting in experts of its own


@pytest.mark.filterwarnings("ignore:`ClassificationReadout..` should compute what `training_step` does")
def test_the_forget_gradient_goes_into_its_experts_alone() -> None:
    """Without a retain gradient, by plain SGD: nothing else moves, to the bit."""

    class Idle(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 0.0 * super().training_step(batch, batch_idx)

    module, start = Idle(), Idle()
    readout = ClassificationReadout()  # the loss of its own step is none
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2), readout=readout, transforms=[OnlyIn(["*_forget"])])
    quiet(callbacks=[unlearn], max_steps=3).fit(module, loader(seed=1))
    moved = {
        n for (n, p), q in zip(module.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)
    }
    assert moved
    assert all(n.endswith("_forget") for n in moved)


def test_names_that_fit_no_parameter_are_refused() -> None:
    unlearn = Unlearn(GradientAscent(), forget=loader(seed=2), transforms=[OnlyIn("expert")])
    with pytest.raises(ValueError, match="`patterns` should fit names of parameters. Found none for .'expert'."):
        quiet(callbacks=[unlearn], max_steps=1).fit(Classifier(), loader(seed=1))


def test_retain_experts_stay_to_the_bit_where_only_the_others_are_trained() -> None:
    module, start = Classifier(), Classifier()
    only = TrainOnly(["lora_*_forget", "lora_router"])
    quiet(callbacks=[Unlearn(GradientAscent(), forget=loader(seed=2)), only], max_steps=3).fit(module, loader(seed=1))
    moved = {
        n for (n, p), q in zip(module.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)
    }
    assert {n.rpartition("_")[2] for n in moved} == {"forget", "router"}


# In two processes, and resumed


def classifier() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, CLASSES))
    return Adapted(net, Experts(r=2, forget=1, retain=2))


class Classifier(LightningModule):
    """A small network with experts around its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = classifier()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.2, momentum=0.9)


def parts() -> tuple[Any, list[Any]]:
    """A module that pulls, and callbacks that push."""
    module = UnlearningModule(
        classifier(),
        retain=PrototypePull(),
        retain_readout=EmbeddingReadout(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.2, momentum=0.9),
    )
    push = Unlearn(PrototypePush(bound=2.0), forget=loader(seed=2, n=16), readout=EmbeddingReadout(), weight=0.1)
    return module, [push, FindPrototypes(), GroupSparse(alpha=0.01)]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.slow
def test_several_processes_find_the_same_prototypes_and_train_as_one_does() -> None:
    def fit(rank: int, world: int) -> Any:
        module, callbacks = parts()
        strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
        trainer = quiet(callbacks=callbacks, strategy=strategy, devices=world, max_steps=2)
        trainer.fit(module, loader(seed=1, batch_size=8 // world))
        objectives = [callbacks[0].objective, module.retain]
        return [o.prototypes for o in objectives], [p.detach() for p in module.parameters()]

    expected, _ = fit(0, 1)
    one, other = run_ranks(fit)
    for mine, theirs, alone in zip(one[0], other[0], expected, strict=True):
        assert torch.equal(mine, theirs)
        assert_close(mine, alone)
    assert all(torch.equal(p, q) for p, q in zip(one[1], other[1], strict=True))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_fit_is_the_uninterrupted_one() -> None:
    """Prototypes are those of the original, and not of the network that is resumed."""

    def fit(**kwargs: Any) -> Any:
        module, callbacks = parts()
        saves = ModelCheckpoint(".", filename="{step}", save_top_k=-1, every_n_epochs=1)
        trainer = quiet(callbacks=[*callbacks, saves], max_epochs=2, enable_checkpointing=True)
        trainer.fit(module, loader(seed=1), **kwargs)
        return module, torch.cat([callbacks[0].objective.prototypes, module.retain.prototypes])

    whole, found = fit()
    resumed, again = fit(ckpt_path="step=6.ckpt")
    assert torch.equal(found, again)
    assert same(whole, resumed)


# Of token mixing, which needs tokens: rows of one length, so that the mean of two processes is the mean of one


def tokens(seed: int, n: int, batch_size: int, sampler: Any = None) -> DataLoader[Any]:
    ids = torch.randint(3, 60, (n, 7), generator=torch.Generator().manual_seed(seed))
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    return DataLoader(rows, batch_size=batch_size, sampler=sampler)  # type: ignore[arg-type]


def mixed() -> UnlearningModule:
    network = Adapted(TinyCausalLM(**SIZES), TokenMixing(r=4))
    return UnlearningModule(network, optimizer=lambda params: torch.optim.SGD(params, lr=0.5, momentum=0.9))


def pushed(batch_size: int) -> Unlearn:
    return Unlearn(Bounded(GradientAscent(), bound=20.0), forget=tokens(2, 8, batch_size))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.slow
def test_several_processes_mix_tokens_as_one_does() -> None:
    def fit(rank: int, world: int) -> dict[str, Tensor]:
        module = mixed()
        sampler = DistributedSampler(range(24), world, rank, shuffle=False)  # type: ignore[arg-type]
        strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
        quiet(
            callbacks=[pushed(8 // world)], strategy=strategy, devices=world, max_steps=3, use_distributed_sampler=False
        ).fit(module, tokens(1, 24, 8 // world, sampler))
        return {name: p.detach() for name, p in module.named_parameters()}

    expected = fit(0, 1)
    assert any(not torch.equal(p, expected[name]) for name, p in mixed().named_parameters())
    for found in run_ranks(fit):
        for name, value in expected.items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_fit_that_mixes_tokens_is_the_uninterrupted_one() -> None:
    def fit(**kwargs: Any) -> UnlearningModule:
        module, saves = mixed(), ModelCheckpoint(".", filename="{step}", save_top_k=-1, every_n_epochs=1)
        trainer = quiet(callbacks=[pushed(8), saves], max_epochs=2, enable_checkpointing=True)
        trainer.fit(module, tokens(1, 24, 8), **kwargs)
        return module

    whole = fit()
    assert not same(whole, mixed())
    assert same(whole, fit(ckpt_path="step=3.ckpt"))
