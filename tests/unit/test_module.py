"""The wrapper around a bare network trains it, and leaves nothing of itself in what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _language_models import adapted, batch, family
from _modules import examples, loader, quiet
from _ranks import run_ranks
from _sharded_fits import FSDP1OnCPU, ShardedLanguageModel, fsdp2
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM

from lightning_unlearn import (
    AdapterDisabled,
    CachedLogLikelihood,
    CausalLMReadout,
    ClassificationReadout,
    CrossEntropy,
    CyclicOrder,
    ForgetRetainData,
    FrozenCopy,
    KLToReference,
    Objective,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.runtime import local

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


class Network(nn.Module):
    """Keys that could be taken for the wrapper's own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = nn.Linear(8, 6)
        self.retain = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.retain(self.network(x)))


def language_data() -> DataLoader[Any]:
    return DataLoader([{name: value[i] for name, value in batch().items()} for i in (0, 1, 0, 1)], 2)


def fit(module: UnlearningModule, data: Any = None, **options: Any) -> Any:
    trainer = quiet(**options)
    trainer.fit(module, loader(seed=1) if data is None else data)
    return trainer


def test_the_loss_is_the_objective_on_what_the_readout_says() -> None:
    module = UnlearningModule(Network())
    x, y = examples(1)[:4]
    assert_close(module.training_step((x, y), 0), F.cross_entropy(module.network(x), y))
    assert_close(module(x), module.network(x))


def test_readout_and_objective_default_to_what_fits() -> None:
    assert isinstance(UnlearningModule(Network()).readout, ClassificationReadout)
    for network in (family("llama"), adapted(family("llama")), torch.compile(family("llama"), backend="eager")):
        assert isinstance(UnlearningModule(network).readout, CausalLMReadout)
    given = CausalLMReadout(keep_features=True)
    assert UnlearningModule(family("llama"), readout=given).readout is given
    assert isinstance(UnlearningModule(Network()).retain, CrossEntropy)


def test_training_lowers_the_loss_of_a_language_model_and_logs_it() -> None:
    module = UnlearningModule(family("llama"), optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2))
    before = module.validation_step(batch(), 0).item()
    data = language_data()
    trainer = fit(module, data, max_epochs=5)
    assert trainer.callback_metrics["retain_loss"] < before - 0.5
    (measured,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    with torch.no_grad():
        expected = CrossEntropy()(CausalLMReadout()(module.network.eval(), next(iter(data)))).item()
    assert measured["val_loss"] == tested["test_loss"] == pytest.approx(expected, abs=1e-5)


def test_only_what_is_trainable_is_optimised() -> None:
    network = Network()
    network.head.requires_grad_(False)
    optimizer = UnlearningModule(network).configure_optimizers()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in network.parameters() if p.requires_grad
    }


def test_the_schedule_steps_once_an_optimizer_step() -> None:
    module = UnlearningModule(
        Network(),
        optimizer=lambda params: torch.optim.SGD(params, lr=1.0),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )
    trainer = fit(module, accumulate_grad_batches=2)  # six batches
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5**3


def test_a_checkpoint_holds_the_networks_own_keys(tmp_path: Path) -> None:
    module = UnlearningModule(Network())
    fit(module).save_checkpoint(tmp_path / "c.ckpt")
    state = torch.load(tmp_path / "c.ckpt", weights_only=True)["state_dict"]
    assert set(state) == set(module.network.state_dict())
    bare = Network(seed=1)
    bare.load_state_dict(state)
    assert_same(bare, module.network)
    again = UnlearningModule.load_from_checkpoint(tmp_path / "c.ckpt", network=Network(seed=2))
    assert_same(again.network, module.network)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


class Learned(Objective):
    """An objective with parameters and state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, student: Any, reference: Any = None) -> Tensor:
        self.calls += 1
        return (student.token_nll() * self.temperature).mean()


def test_resumed_fit_goes_on_where_it_was_also_what_an_objective_learned(tmp_path: Path) -> None:
    def run(folder: str, path: Path | None = None, **options: Any) -> UnlearningModule:
        kept = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        module = UnlearningModule(Network(), retain=Learned(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
        data = ForgetRetainData(loader(seed=1), loader(seed=2), order=CyclicOrder())
        trainer = quiet(callbacks=[kept, Unlearn(CrossEntropy())], enable_checkpointing=True, max_epochs=2, **options)
        trainer.fit(module, datamodule=data, ckpt_path=path)
        return module

    whole = run("whole")
    resumed = run("resumed", tmp_path / "whole" / "step=4.ckpt")
    assert_same(resumed, whole)
    assert whole.retain.calls == 12


@pytest.mark.parametrize("lora", [False, True])
def test_save_pretrained_and_back(lora: bool, tmp_path: Path) -> None:
    network = adapted(family("llama")) if lora else family("llama")
    module = UnlearningModule(network, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2))
    fit(module, language_data())
    module.network.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(family("llama"), tmp_path) if lora else LlamaForCausalLM.from_pretrained(tmp_path)
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    with torch.no_grad():
        assert torch.equal(again.eval()(**inputs).logits, network.eval()(**inputs).logits)
        assert (again(**inputs).logits - family("llama").eval()(**inputs).logits).abs().max() > 1e-2


@pytest.mark.parametrize(("lora", "kind"), [(False, FrozenCopy), (True, AdapterDisabled)])
def test_a_retain_objective_is_shown_the_original(lora: bool, kind: type) -> None:
    network, start = (adapted(family("llama")) if lora else family("llama")), family("llama").eval()
    module = UnlearningModule(network, retain=KLToReference(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-1))
    data, readout = DataLoader([batch()] * 3, batch_size=None), CausalLMReadout()
    other = DataLoader([{**batch(), "input_ids": 22 - batch()["input_ids"]}], batch_size=None)
    with torch.no_grad():
        original = readout(start, batch())
    for _ in range(2):  # the second fit must not take the trained network for the original
        trainer = fit(module, data, callbacks=[Unlearn(CrossEntropy(), forget=other)])
    assert isinstance(module.reference, kind)
    (measured,) = trainer.validate(module, data, verbose=False)
    with torch.no_grad():
        expected = KLToReference()(readout(network.eval(), batch()), original).item()
    assert measured["val_loss"] == pytest.approx(expected, abs=1e-5)
    assert expected > 1e-3


def test_a_reference_that_only_knows_forget_data_is_refused() -> None:
    module = UnlearningModule(family("llama"), retain=KLToReference(), reference=CachedLogLikelihood())
    with pytest.raises(ValueError, match=r"any retain batch\. Found `CachedLogLikelihood`.* Use `FrozenCopy\(\)`"):
        fit(module, language_data())


def test_without_need_no_original_is_kept() -> None:
    module = UnlearningModule(Network())
    fit(module)
    assert module.reference is None


SHARDED: dict[str, Any] = {
    # Of its two kinds of checkpoints the other hangs on CPUs, whatever the module.
    "fsdp1": (UnlearningModule, lambda: FSDP1OnCPU(auto_wrap_policy={nn.Linear}, state_dict_type="sharded")),
    "fsdp2": (ShardedLanguageModel, lambda: fsdp2(False)),
    "fsdp2_distributed": (ShardedLanguageModel, lambda: fsdp2(True)),
}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize(
    ("kind", "retain"), [(k, r) for k in SHARDED for r in ("cross_entropy", "kl") if (k, r) != ("fsdp1", "kl")]
)
def test_sharded_fits_resume_and_load_elsewhere(kind: str, retain: str, tmp_path: Path) -> None:
    make, strategy = SHARDED[kind]

    def on_rank(rank: int, world_size: int) -> Any:
        def run(save: str, resume: Path | None = None, **options: Any) -> list[Tensor]:
            module = make(
                small(),
                retain=KLToReference() if retain == "kl" else None,
                optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2),
            )
            callbacks = [Unlearn(CrossEntropy(), forget=loader(seed=2))] if retain == "kl" else []
            trainer = quiet(
                strategy=strategy(), devices=world_size, use_distributed_sampler=False, callbacks=callbacks, **options
            )
            trainer.fit(module, loader(seed=1), ckpt_path=resume)
            trainer.save_checkpoint(tmp_path / save)
            return [local(p).detach().clone() for p in module.parameters()]

        run("first.ckpt")
        return run("resumed.ckpt", tmp_path / "first.ckpt", max_epochs=2), run("whole.ckpt", max_epochs=2)

    ranks = run_ranks(on_rank)
    for resumed, whole in ranks:
        for a, b in zip(resumed, whole, strict=True):
            assert_close(a, b, rtol=0, atol=1e-6)
    if kind == "fsdp2":
        loaded = UnlearningModule.load_from_checkpoint(tmp_path / "whole.ckpt", network=small())
        for p, *shards in zip(loaded.parameters(), *(whole for _, whole in ranks), strict=True):
            assert torch.equal(p, torch.cat(shards))


def test_frozen_copy_under_fsdp1_is_refused() -> None:
    def on_rank(rank: int, world_size: int) -> None:
        module = UnlearningModule(Network(), retain=KLToReference())
        with pytest.raises(NotImplementedError, match=r"`FrozenCopy` should .* Found `FSDPStrategy` \(FSDP1\)"):
            quiet(strategy=FSDP1OnCPU(), devices=world_size).fit(module, loader(seed=1))

    run_ranks(on_rank)
