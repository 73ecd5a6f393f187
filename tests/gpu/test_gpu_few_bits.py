"""bitsandbytes and torchao by the kernels of a GPU: fits, resumes, attacks, and optimizers in eight bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _few_bits import KINDS, folder, in_bits
from _language_models import batch, language
from _modules import examples, quiet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn import (
    NPO,
    BitsAndBytes,
    CausalLMReadout,
    CyclicOrder,
    FinetuneFirst,
    ForgetRetainData,
    PretrainedCausalLM,
    Quantize,
    RecoveryCheck,
    Relearn,
    StepGuard,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.attacks import TorchAO
from lightning_unlearn.guards import History, NoChange

bitsandbytes = pytest.importorskip("bitsandbytes", reason="its kernels are what is tested")
pytestmark = [pytest.mark.filterwarnings("ignore:The dirpath has changed"), pytest.mark.usefixtures("deterministic")]


def ours(network: Any) -> UnlearningModule:
    return UnlearningModule(network, readout=CausalLMReadout(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))


def fit(module: Any, *callbacks: Any, ckpt: Any = None, folder: Any = None, **settings: Any) -> Any:
    data = ForgetRetainData(retain=language(0), forget=language(1), order=CyclicOrder())
    saving = [] if folder is None else [ModelCheckpoint(folder, every_n_epochs=1, save_top_k=-1, filename="{epoch}")]
    settings = {"max_epochs": 2, "enable_checkpointing": bool(saving), **settings}
    quiet(callbacks=[*callbacks, Unlearn(NPO()), *saving], **settings).fit(module, datamodule=data, ckpt_path=ckpt)
    return module


def trained(module: nn.Module) -> list[Tensor]:
    return [p.detach().cpu() for p in module.parameters() if p.requires_grad]


def moved(module: nn.Module, start: nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(trained(module), trained(start), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_over_few_bits_forgets_and_resumes(kind: str, tmp_path: Path) -> None:
    whole = fit(ours(in_bits(kind)), StepGuard(NoChange(), History(2)))
    fit(ours(in_bits(kind)), StepGuard(NoChange(), History(2)), folder=tmp_path, max_epochs=1)
    again = fit(ours(in_bits(kind)), StepGuard(NoChange(), History(2)), ckpt=tmp_path / "epoch=0.ckpt")
    assert all(p.isfinite().all() for p in trained(whole))
    for a, b in zip(trained(whole), trained(again), strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)
    assert moved(whole, ours(in_bits(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_checks_of_it_change_no_bit(kind: str) -> None:
    def check() -> RecoveryCheck:
        attacks = {"relearn": Relearn(steps=2, lr=1e-2), "int4": Quantize(4), "kernel": BitsAndBytes("nf4")}
        return RecoveryCheck(attacks, every_n_steps=2)

    checked, plain = check(), fit(ours(in_bits(kind)))
    watched = fit(ours(in_bits(kind)), checked)
    assert all(map(torch.equal, trained(plain), trained(watched)))
    assert checked.restored
    # Which of the attacks a base in few bits allows is told by name, and not by an error of a kernel.
    assert {f.error for f in checked.failures} <= {"ValueError", "NotImplementedError", "Misfit"}
    assert {o.attack for o in checked.observations} >= {"none", "relearn"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_look_is_after_weights_in_few_bits_came_back_from_the_cpu(kind: str) -> None:
    """Lightning moves them away when the fit ends; what is averaged is looked at after that."""
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    check = RecoveryCheck({"relearn": Relearn(steps=1, lr=1e-2)})
    fit(ours(in_bits(kind)), check, StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1), max_epochs=3)
    assert [(f.attack, f.error, f.message) for f in check.failures] == []
    assert check.restored


def test_it_is_taught_first(device: torch.device) -> None:
    teach = FinetuneFirst(epochs=2, lr=1e-2, batch_size=4, folder="kept", control=True)
    check = RecoveryCheck(every_n_epochs=0)
    fit(ours(in_bits("nf4")), teach, check, max_epochs=1)
    assert {o.subject for o in check.observations} == {"original", "unlearned", "control"}


@pytest.mark.parametrize("kernel", KINDS)
def test_under_attack_a_model_says_what_it_says_where_it_is_loaded_in_few_bits(kernel: Any, device: Any) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": kernel, "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if kernel == "int8" else four))
    dtype = torch.float16 if kernel == "int8" else torch.float32
    where = {"": f"{device}"}
    deployed = AutoModelForCausalLM.from_pretrained(folder(), quantization_config=config, device_map=where, dtype=dtype)
    network = PretrainedCausalLM(folder(), dtype="float16" if kernel == "int8" else "float32").to(device)
    plain = said(network, device)
    with BitsAndBytes(kernel)(network) as points:
        attacked = said(network, device)
        assert list(points) == [8 if kernel == "int8" else 4]
    assert_close(attacked, said(deployed, device), rtol=1e-2, atol=1e-2)
    assert not torch.equal(attacked, plain)
    assert torch.equal(said(network, device), plain)


@pytest.mark.parametrize("kernel", ["nf4", "fp4"])
def test_four_bits_are_those_that_our_rounding_gives(kernel: Any, device: torch.device) -> None:
    network = PretrainedCausalLM(folder()).to(device)
    with BitsAndBytes(kernel)(network):
        by_kernel = said(network, device)
    with Quantize(4, codebook=kernel)(network):
        by_rounding = said(network, device)
    assert_close(by_kernel, by_rounding, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", ["int8", "int8-dynamic", "int4"])
def test_torchao_leaves_nothing_behind(kernel: Any, device: torch.device) -> None:
    pytest.importorskip("torchao", reason="its kernels are what is tested")
    network = PretrainedCausalLM(folder()).to(device)
    plain = said(network, device)
    with TorchAO(kernel)(network):
        attacked = said(network, device)
    assert not torch.equal(attacked, plain)
    assert_close(attacked, plain, rtol=0, atol=1.0)
    assert torch.equal(said(network, device), plain)


def said(network: nn.Module, device: torch.device) -> Tensor:
    mode = network.training
    with torch.no_grad():
        logits: Tensor = network.eval()(**{k: v.to(device) for k, v in batch().items()}).logits
    network.train(mode)
    return logits.float().cpu()


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit", "AdamW32bit"])
def test_the_step_of_an_optimizer_in_eight_bits_is_guarded_too(name: str, device: torch.device) -> None:
    """Its state is large enough to be kept in eight bits: 4096 elements or more."""
    if device.type == "cpu":
        pytest.skip("its kernels are for GPUs")

    class Wide(UnlearningModule):
        def configure_optimizers(self) -> Any:
            return getattr(bitsandbytes.optim, name)(self.parameters(), lr=1e-3)

    from _modules import loader

    from lightning_unlearn import Bounded, ClassificationReadout, GradientAscent

    network = nn.Sequential(nn.Linear(8, 1024), nn.GELU(), nn.Linear(1024, 5))
    module = Wide(network, readout=ClassificationReadout())
    guard, inputs = StepGuard(NoChange(), History(2)), examples(1).tensors[0]
    unlearn = Unlearn(Bounded(GradientAscent(), bound=4.0), forget=loader(seed=2))
    trainer = quiet(callbacks=[unlearn, guard], max_epochs=2)
    trainer.fit(module, loader(seed=1))
    assert guard._steps == {"taken": 12, "transformed": 12, "fallbacks": 0}
    assert float(trainer.callback_metrics["guard/cosine"]) < 1e-4
    assert module.network.cpu()(inputs).isfinite().all()
