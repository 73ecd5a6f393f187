"""An adapter over a base in few bits: fits, resumes, is taught twice, is saved and comes back, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _few_bits import by_hand, folder, in_bits, said
from _language_models import language
from _modules import quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from lightning_unlearn import (
    NPO,
    CachedLogLikelihood,
    CausalLMReadout,
    FinetuneFirst,
    ForgetRetainData,
    KLToReference,
    LoRA,
    PretrainedCausalLM,
    RecoveryCheck,
    SavePretrained,
    Unlearn,
    UnlearningModule,
)

pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*Found keys that are not in the model state dict but in the checkpoint"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


MOST = ["nf4", "int8", slow("fp4")]


class Users(pl.LightningModule):
    """A LightningModule that knows nothing of ours."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.net = network

    def forward(self, **batch: Tensor) -> Any:
        return self.net(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(**batch).loss
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


def ours(network: Any) -> UnlearningModule:
    # Not packed: whether packing is exact is decided at the first batch, which is another one where nothing is taught.
    return UnlearningModule(network, readout=CausalLMReadout(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))


def fit(module: Any, *callbacks: Any, ckpt: str | None = None, epochs: int = 2, **settings: Any) -> Any:
    data = ForgetRetainData(retain=language(0), forget=language(1))
    saving = ModelCheckpoint("ckpt", every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    callbacks = (*callbacks, Unlearn(NPO()), saving)
    trainer = quiet(callbacks=list(callbacks), enable_checkpointing=True, max_epochs=epochs, **settings)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return module


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


FITS: dict[str, Any] = {
    "ours": lambda kind: ours(in_bits(kind)),
    "by_hand": lambda kind: Users(by_hand(kind)),
    "dora": lambda kind: ours(in_bits(kind, lora=LoRA(r=2, use_dora=True))),
    "head": lambda kind: ours(in_bits(kind, lora=LoRA(r=2, modules_to_save=["lm_head"]))),
}


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("ours", "nf4"),
        ("ours", "int8"),
        ("by_hand", "nf4"),
        slow("ours", "fp4"),
        slow("by_hand", "int8"),
        slow("dora", "nf4"),
        slow("head", "nf4"),
        slow("head", "int8"),
    ],
)
def test_resumed_equals_uninterrupted(how: str, kind: str) -> None:
    fit(FITS[how](kind), epochs=1)
    whole = fit(FITS[how](kind))
    resumed = fit(FITS[how](kind), ckpt="ckpt/epoch=0.ckpt")
    assert same(whole, resumed)
    assert not same(whole, FITS[how](kind))


def test_int8_weights_whose_scales_would_be_lost_are_refused() -> None:
    with pytest.raises(ValueError, match='int8 weights on the CPU, whose scales PEFT loses .*quantization="nf4"'):
        FITS["dora"]("int8")


def test_another_seed_of_the_adapter_and_another_base_are_those_of_the_checkpoint() -> None:
    whole = fit(ours(in_bits("nf4")))
    fit(ours(in_bits("nf4")), epochs=1)
    elsewhere = ours(in_bits("nf4", base=5, lora=LoRA(r=2, seed=7)))
    assert same(whole, fit(elsewhere, ckpt="ckpt/epoch=0.ckpt"))


def test_a_checkpoint_without_the_base_resumes_where_missing_keys_are_allowed() -> None:
    class Small(Users):
        strict_loading = False

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if "lora_" in name}

    whole = fit(Small(by_hand("nf4")))
    fit(Small(by_hand("nf4")), epochs=1)
    assert same(whole, fit(Small(by_hand("nf4")), ckpt="ckpt/epoch=0.ckpt"))


@pytest.mark.parametrize(
    ("saved", "now", "said_to_be"),
    [
        ("nf4", "fp4", "Found `nf4` in the file and `fp4` in the network"),
        ("int8", "nf4", "Found `int8` in the file and `nf4` in the network"),
        ("nf4", "int8", "Found `nf4` in the file and `int8` in the network"),
        ("int8", None, "Found `int8` in the file and no such rounding in the network"),
        (None, "int8", "Found no such rounding in the file and `int8` in the network"),
        (None, "nf4", r"Found no such rounding in the file and `nf4` .*quantization=None"),
    ],
)
def test_a_checkpoint_in_other_bits_is_refused(saved: str | None, now: str | None, said_to_be: str) -> None:
    def network(kind: str | None) -> Any:
        return PretrainedCausalLM(folder(), lora=LoRA(r=2), quantization=kind)

    fit(ours(network(saved)), epochs=1)
    with pytest.raises(ValueError, match=said_to_be):
        fit(ours(network(now)), ckpt="ckpt/epoch=0.ckpt")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_weights_alone_come_back(kind: str) -> None:
    class Alone(ModelCheckpoint):
        def __init__(self) -> None:
            super().__init__("alone", save_weights_only=True, filename="x")

    module = fit(ours(in_bits(kind)), Alone(), epochs=1)
    network = in_bits(kind, base=5)
    network.load_state_dict(torch.load("alone/x.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(said(network), said(module.network))


def taught(kind: str | None, **settings: Any) -> tuple[Any, FinetuneFirst]:
    network = PretrainedCausalLM(folder(), lora=LoRA(r=2), quantization=kind)
    teach = FinetuneFirst(epochs=2, lr=1e-2, batch_size=4, **settings)
    return fit(ours(network), teach, epochs=1, limit_train_batches=0), teach


@pytest.mark.parametrize("kind", MOST)
def test_a_second_run_finds_what_the_first_taught_the_adapter(kind: str) -> None:
    first, _ = taught(kind, folder="kept", control=True)
    files = {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()}
    second, teach = taught(kind, folder="kept", control=True)
    assert {file: file.stat().st_mtime_ns for file in Path("kept").iterdir()} == files
    assert len(files) == 2
    assert same(first, second)
    assert not torch.equal(said(first.network), said(in_bits(kind)))
    assert not teach.taught_base
    # In few bits the base is what it was: the adapter has learned.
    with first.network.disable_adapter():
        assert torch.equal(said(first.network), said(in_bits(kind)))


def test_what_was_taught_is_the_original_and_a_control_that_was_not_can_be_swapped_in() -> None:
    teach = FinetuneFirst(epochs=2, lr=1e-2, batch_size=4, folder="kept", control=True)
    check = RecoveryCheck(every_n_epochs=0)
    module = fit(ours(in_bits("nf4")), teach, check, epochs=1)
    assert {o.subject for o in check.observations} == {"original", "unlearned", "control"}
    assert check.restored
    (unlearn,) = [c for c in module.trainer.callbacks if isinstance(c, Unlearn)]
    assert isinstance(unlearn._original.loss.reference, CachedLogLikelihood)


def test_teaching_and_forgetting_resume_together() -> None:
    def parts() -> Any:
        return ours(in_bits("nf4")), FinetuneFirst(epochs=1, lr=1e-2, batch_size=4, folder="kept")

    whole = fit(*parts())
    fit(*parts(), epochs=1)
    assert same(whole, fit(*parts(), ckpt="ckpt/epoch=0.ckpt"))


@pytest.mark.slow
def test_a_retain_loss_that_needs_the_original_resumes() -> None:
    def module() -> UnlearningModule:
        return UnlearningModule(in_bits("int8"), retain=KLToReference())

    whole = fit(module())
    fit(module(), epochs=1)
    assert same(whole, fit(module(), ckpt="ckpt/epoch=0.ckpt"))


@pytest.mark.parametrize("kind", MOST)
def test_an_adapter_is_saved_and_loads_back_to_the_bit_with_its_base(kind: str) -> None:
    module = fit(ours(in_bits(kind)), SavePretrained("out"))
    again = PretrainedCausalLM("out", quantization=kind)
    assert torch.equal(said(again), said(module.network))
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in module.network.named_parameters() if p.requires_grad
    ]


@pytest.mark.parametrize(("kind", "atol"), [("nf4", 1e-4), slow("fp4", 1e-4), slow("int8", 0.1)])
def test_a_merged_folder_is_plain_and_says_the_same(kind: str, atol: float) -> None:
    """Int8 layers round their inputs, which no merged network does."""
    module = fit(ours(in_bits(kind)), SavePretrained("out", merge_adapter=True), epochs=4)
    again = AutoModelForCausalLM.from_pretrained("out")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert not hasattr(again.config, "quantization_config")
    assert_close(said(again), said(module.network), rtol=0, atol=atol)
    with module.network.disable_adapter():
        assert (said(again) - said(module.network)).abs().max() > 2 * atol
