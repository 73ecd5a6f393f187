"""A retain loss of ours contains the router loss that Hugging Face's own loss contains; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers as hf
from _families import VOCABULARY, rows
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    NPO,
    CausalLMReadout,
    CrossEntropy,
    FinetuneFirst,
    ForgetRetainData,
    GradientAscent,
    KLToReference,
    PackedCausalLMReadout,
    Prediction,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.engine import decided_readout
from lightning_unlearn.readouts import PairedReadout
from lightning_unlearn.readouts._packing_check import verdicts_of
from lightning_unlearn.readouts._router import router_loss

SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False}

MIXTURES: dict[str, Callable[[bool], nn.Module]] = {
    "mixtral": lambda on: hf.MixtralForCausalLM(
        hf.MixtralConfig(**SIZES, **EXPERTS, num_local_experts=4, output_router_logits=on)
    ),
    "qwen3_moe": lambda on: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(
            **SIZES, **EXPERTS, head_dim=8, num_experts=4, moe_intermediate_size=16, output_router_logits=on
        )
    ),
    "olmoe": lambda on: hf.OlmoeForCausalLM(hf.OlmoeConfig(**SIZES, **EXPERTS, num_experts=4, output_router_logits=on)),
    "gpt_oss": lambda on: hf.GptOssForCausalLM(
        hf.GptOssConfig(**SIZES, **EXPERTS, head_dim=8, num_local_experts=4, output_router_logits=on)
    ),
    "jetmoe, another name": lambda on: hf.JetMoeForCausalLM(
        hf.JetMoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_key_value_heads=2,
            kv_channels=8,
            intermediate_size=24,
            num_local_experts=4,
            num_experts_per_tok=2,
            aux_loss_coef=0.5,
            output_router_logits=on,
        )
    ),
}


def mixture(name: str = "mixtral", *, on: bool = True) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MIXTURES[name](on)
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    return network.eval()


BATCH = rows((9, 12, 8, 12), shared=4)
OTHER = rows((7, 12, 7, 5), shared=3, seed=2)


@pytest.mark.parametrize("batch", [BATCH, OTHER], ids=["first", "second"])
@pytest.mark.parametrize("readout", [CausalLMReadout, PackedCausalLMReadout])
@pytest.mark.parametrize("name", MIXTURES)
def test_a_retain_loss_is_hugging_faces(name: str, readout: Any, batch: dict[str, Tensor]) -> None:
    ours, theirs = mixture(name), mixture(name)
    expected = theirs(**batch).loss
    assert float(theirs(**batch).aux_loss.detach()) > 0.1
    loss = UnlearningModule(ours, readout=readout()).training_step(batch, 0)
    assert_close(loss, expected, rtol=0, atol=1e-5)
    expected.backward()
    loss.backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MIXTURES)
def test_where_it_is_off_nothing_changes(name: str) -> None:
    network = mixture(name, on=False)
    prediction = PackedCausalLMReadout()(network, BATCH)
    assert prediction.router_loss is None
    assert_close(UnlearningModule(network).training_step(BATCH, 0), CrossEntropy()(prediction))


def test_other_retain_losses_keep_it_too() -> None:
    module = UnlearningModule(mixture(), retain=KLToReference())
    module.setup("fit")
    loss = module.training_step(BATCH, 0)  # the network still is the original: no divergence
    assert_close(loss, 0.5 * module.network(**BATCH).aux_loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [GradientAscent(), NPO(), CrossEntropy()], ids=str)
def test_what_forgets_or_measures_leaves_it_out(objective: Any) -> None:
    on, off = (CausalLMReadout()(mixture(on=flag), BATCH) for flag in (True, False))
    assert on.router_loss is not None
    reference = off.detach()
    assert_close(objective(on, reference), objective(off, reference), rtol=0, atol=1e-6)
    assert_close(on.example_nll(), off.example_nll(), rtol=0, atol=1e-5)


def test_packed_tokens_have_no_router_loss_so_they_are_read_as_rows() -> None:
    """Hugging Face's is a mean over each row's tokens; packed, a shared prompt would count once."""
    network = mixture()
    PackedCausalLMReadout()(network, BATCH)
    assert verdicts_of(network) == {}


def test_pairs_and_parts_of_a_prediction_are_without_it_where_it_is_of_the_whole() -> None:
    prediction = CausalLMReadout()(mixture(), BATCH)
    assert all(part.router_loss is None for part in prediction.split_by_example())
    assert prediction.router_loss is not None
    assert prediction.router_loss.requires_grad
    detached = prediction.detach()
    assert detached.router_loss is not None
    assert not detached.router_loss.requires_grad
    assert isinstance(PairedReadout()(mixture(), {**BATCH, "companion": OTHER}), Prediction)


fits = pytest.mark.filterwarnings("ignore:.*val_dataloader", "ignore:.*does not have many workers")


def loader(batch: dict[str, Tensor]) -> DataLoader[Any]:
    return DataLoader([{name: value[row] for name, value in batch.items()} for row in range(4)], batch_size=2)


def fitted(network: nn.Module, *callbacks: pl.Callback, **options: Any) -> UnlearningModule:
    module = UnlearningModule(network.train(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    data = ForgetRetainData(retain=loader(BATCH), forget=loader(OTHER))
    pl.Trainer(max_epochs=1, callbacks=list(callbacks), **QUIET, **options).fit(module, datamodule=data)
    return module


@fits
def test_accumulated_steps_are_those_of_hugging_faces_losses() -> None:
    network, expected = mixture(), mixture()
    fitted(network, accumulate_grad_batches=2)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch in loader(BATCH):
        (expected(**batch).loss / 2).backward()
    optimizer.step()
    for p, q in zip(network.parameters(), expected.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-5)


@fits
def test_teaching_keeps_it() -> None:
    """One step of `FinetuneFirst`, and the router's gradient has it."""
    with_it, without = mixture(on=True), mixture(on=False)
    for network in (with_it, without):
        fitted(network, FinetuneFirst(epochs=1, lr=1e-2, batch_size=4), Unlearn(GradientAscent()), max_steps=1)
    routers = [n for n, _ in with_it.named_parameters() if "gate.weight" in n]
    assert routers
    difference = [(with_it.get_parameter(n) - without.get_parameter(n)).abs().max() for n in routers]
    assert min(float(d.detach()) for d in difference) > 1e-4


@fits
def test_a_users_own_module_that_trains_by_hugging_faces_loss_keeps_its_readout() -> None:
    class Own(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = mixture().train()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = self.network(**batch).loss
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    found: list[Any] = []

    class Ask(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            found.append(decided_readout(trainer, pl_module))

    data = ForgetRetainData(retain=loader(BATCH), forget=loader(OTHER))
    pl.Trainer(max_epochs=1, callbacks=[Ask()], **QUIET).fit(Own(), datamodule=data)
    assert isinstance(found[0], PackedCausalLMReadout)


def test_a_router_loss_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"router_aux_loss_coef.*output_router_logits = False"):
        router_loss(nn.Linear(1, 1), SimpleNamespace(aux_loss=torch.ones(())))
