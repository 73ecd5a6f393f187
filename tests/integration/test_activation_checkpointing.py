"""Activations computed again give the losses and gradients of those that were kept, wherever passes run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import quiet
from torch import nn
from torch.testing import assert_close

from lightning_unlearn import (
    NPO,
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    ForgetRetainData,
    KLToReference,
    LoaderSettings,
    LoRA,
    PackedCausalLMReadout,
    PretrainedCausalLM,
    QuestionAnswerData,
    RecoveryCheck,
    Relearn,
    SequentialOrder,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.models._checkpointing import checkpoint_activations
from lightning_unlearn.objectives import RMU
from lightning_unlearn.readouts import HiddenStateReadout, LayersReadout

SIZES = {"hidden_size": 32, "num_hidden_layers": 2}


def network(kept: Path, *, lora: bool, again: bool) -> nn.Module:
    if not kept.exists():
        TinyCausalLM(**SIZES, seed=1).save_pretrained(kept)
    adapter = LoRA(r=2, target_modules=["q_proj", "v_proj"]) if lora else None
    built = PretrainedCausalLM(str(kept), lora=adapter, activation_checkpointing=again)
    with torch.no_grad():
        for name, p in built.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)  # else the other factor has no gradient
    return built


def rows(**selection: Any) -> QuestionAnswerData:
    records, loader = FileRecords("bundled:people", **selection), LoaderSettings(batch_size=4, shuffle=False)
    return QuestionAnswerData(records, Encoding("bundled"), loader)


@contextmanager
def counting(layer: nn.Module) -> Iterator[list[bool]]:
    """Whether a gradient was wanted, at each time the layer was computed, the backward pass included."""
    calls: list[bool] = []
    handle = layer.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    yield calls
    handle.remove()


def inner(built: nn.Module) -> nn.Module:
    """Inside of a layer: what is around it is not computed again."""
    return next(m for name, m in built.named_modules() if name.endswith("layers.0.mlp"))


READOUTS = {
    "plain": CausalLMReadout,
    "packed": PackedCausalLMReadout,
    "one layer": lambda: HiddenStateReadout("layers.1"),
    "layers": lambda: LayersReadout([r"layers\.[01]\.mlp", "layers.0"]),
}
OBJECTIVES: dict[str, Any] = {"one layer": RMU(), "layers": lambda said: said.features.square().sum()}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("read", READOUTS)
def test_losses_and_gradients_are_those_of_kept_activations(read: str, lora: bool, tmp_path: Path) -> None:
    batch = next(iter(rows().val_dataloader()))
    objective = OBJECTIVES.get(read, CrossEntropy())
    results = []
    for again in (False, True):
        built, readout = network(tmp_path / "model", lora=lora, again=again), READOUTS[read]()
        readout(built, batch)  # the packed one compares first
        with counting(inner(built)) as calls:
            loss = objective(readout(built, batch))
            loss.backward()
        assert calls == [True] * (1 + again)
        results.append((loss.detach(), {n: p.grad for n, p in built.named_parameters() if p.grad is not None}))
    (kept_loss, kept), (loss, gradients) = results
    assert_close(loss, kept_loss, rtol=0, atol=1e-6)
    assert gradients.keys() == kept.keys()
    assert sum(g.norm() > 1e-4 for g in kept.values()) >= 4
    for name, gradient in gradients.items():
        assert_close(gradient, kept[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_evaluation_computes_once_and_no_hook_is_left_on_the_embeddings(lora: bool, tmp_path: Path) -> None:
    built = network(tmp_path / "model", lora=lora, again=True)
    embeddings = built.get_input_embeddings()
    assert not embeddings._forward_hooks
    with counting(inner(built)) as calls:
        prediction = CausalLMReadout()(built.eval(), next(iter(rows().val_dataloader())))
        CrossEntropy()(prediction).backward()
    assert calls == [True]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("readout", [pytest.param(CausalLMReadout, marks=pytest.mark.slow), PackedCausalLMReadout])
def test_a_fit_with_its_extra_passes_ends_at_the_same_weights(readout: Any, lora: bool, tmp_path: Path) -> None:
    """The forget pass, the original's view by adapter, cache and swapped weights, and an attack that trains."""
    ends = []
    for again in (False, True):
        torch.manual_seed(0)
        built = PretrainedCausalLM(
            saved(tmp_path), lora=LoRA(r=2, target_modules=["q_proj"]) if lora else None, activation_checkpointing=again
        )
        module = UnlearningModule(
            built, readout=readout(), retain=KLToReference(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
        )
        check = RecoveryCheck({"relearn": Relearn(steps=2, lr=1e-2)}, every_n_steps=1)
        unlearn = Unlearn(NPO(beta=0.5))
        data = ForgetRetainData(retain=rows(rows=(6, 14)), forget=rows(rows=(0, 6)), order=SequentialOrder())
        trainer = quiet(callbacks=[unlearn, check], max_steps=2, limit_val_batches=0)
        trainer.fit(module, datamodule=data)
        assert unlearn._steps == {"merged": 2, "taken": 2}
        ends.append(([p.detach() for p in built.parameters() if p.requires_grad], check.observations))
    (kept, kept_looks), (computed, looks) = ends
    for a, b in zip(computed, kept, strict=True):
        assert_close(a, b, rtol=0, atol=1e-6)
    assert {look.attack for look in looks} == {"none", "relearn"}
    assert [look.value for look in looks] == pytest.approx([look.value for look in kept_looks], abs=1e-5)


def saved(folder: Path) -> str:
    TinyCausalLM(**SIZES, seed=1).save_pretrained(folder / "model")
    return str(folder / "model")


def test_the_tiny_network_does_it_too() -> None:
    batch = next(iter(rows().val_dataloader()))
    built, kept = TinyCausalLM(**SIZES, activation_checkpointing=True), TinyCausalLM(**SIZES)
    for one in (built, kept):
        with counting(inner(one)) as calls:
            CrossEntropy()(CausalLMReadout()(one, batch)).backward()
        assert len(calls) == 1 + (one is built)
    for a, b in zip(built.parameters(), kept.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=0, atol=1e-6)


def test_architectures_that_cannot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = TinyCausalLM(**SIZES)
    monkeypatch.setattr(type(built), "supports_gradient_checkpointing", False)
    with pytest.raises(ValueError, match=r"`activation_checkpointing` should be for architectures .* Found: LlamaFor"):
        checkpoint_activations(built)
