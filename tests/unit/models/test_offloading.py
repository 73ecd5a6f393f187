"""Activations that went to the CPU's memory and back give the same losses and gradients, to the bit; weights stay."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn import (
    CausalLMReadout,
    CrossEntropy,
    LoRA,
    PackedCausalLMReadout,
    PretrainedCausalLM,
    TinyCausalLM,
)
from lightning_unlearn.models import _offloading

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2}
TOKENS = torch.randint(640, (3, 12), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": TOKENS}


@pytest.fixture
def came_back(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Tensors that are moved, on a CPU that counts as another device."""
    monkeypatch.setattr(_offloading, "_ALREADY_THERE", {"meta"})
    monkeypatch.setattr(_offloading, "_SMALLEST", 0)
    found: list[Tensor] = []
    unpack = _offloading._unpack

    def unpacked(packed: Any) -> Tensor:
        if not isinstance(packed, Tensor):
            found.append(packed[1])
        return unpack(packed)

    monkeypatch.setattr(_offloading, "_unpack", unpacked)
    return found


def built(folder: Path, *, offload: bool, again: bool = False, lora: bool = False) -> nn.Module:
    if not folder.exists():
        TinyCausalLM(**SIZES, seed=1).save_pretrained(folder)
    return PretrainedCausalLM(
        str(folder),
        lora=LoRA(r=2, target_modules=["q_proj"]) if lora else None,
        activation_checkpointing=again,
        activation_offloading=offload,
    )


def gradients(network: nn.Module, readout: Any) -> dict[str, Tensor]:
    readout(network, BATCH)  # the packed one compares first
    network.zero_grad()
    CrossEntropy()(readout(network, BATCH)).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("readout", [CausalLMReadout, PackedCausalLMReadout])
def test_gradients_are_the_same(readout: Any, again: bool, lora: bool, tmp_path: Path, came_back: list[Tensor]) -> None:
    folder = tmp_path / "model"
    expected = gradients(built(folder, offload=False, again=again, lora=lora), readout())
    assert not came_back
    found = gradients(moving := built(folder, offload=True, again=again, lora=lora), readout())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert came_back
    weights = [p.detach() for p in moving.parameters()]
    assert not any(t.shape == w.shape and torch.equal(t, w) for t in came_back for w in weights)


def test_checkpointing_leaves_little_to_move(tmp_path: Path, came_back: list[Tensor]) -> None:
    sizes = []
    for again in (False, True):
        came_back.clear()
        gradients(built(tmp_path / "model", offload=True, again=again), CausalLMReadout())
        sizes.append(sum(t.numel() for t in came_back))
    assert sizes[1] < sizes[0] / 4


def test_nothing_happens_on_the_cpu_and_small_tensors_stay(
    tmp_path: Path, came_back: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = built(tmp_path / "model", offload=True)
    monkeypatch.setattr(_offloading, "_SMALLEST", 1 << 20)
    gradients(network, CausalLMReadout())
    monkeypatch.setattr(_offloading, "_SMALLEST", 0)
    monkeypatch.setattr(_offloading, "_ALREADY_THERE", {"cpu"})
    gradients(network, CausalLMReadout())
    assert not came_back


def test_a_pass_that_raises_and_a_copy_leave_nothing_open(tmp_path: Path, came_back: list[Tensor]) -> None:
    network: Any = built(tmp_path / "model", offload=True)
    with pytest.raises((IndexError, RuntimeError)):
        network(torch.tensor([[10_000]]))
    nn.Linear(2, 2)(torch.ones(1, 2, requires_grad=True)).square().sum().backward()
    assert not came_back
    twin = copy.deepcopy(network)
    with torch.no_grad():
        network.model.embed_tokens.weight.zero_()
    gradients(twin, CausalLMReadout())
    weights = [p.detach() for p in twin.parameters()]  # its own, and not those that it was copied from
    assert came_back
    assert not any(t.shape == w.shape and torch.equal(t, w) for t in came_back for w in weights)
