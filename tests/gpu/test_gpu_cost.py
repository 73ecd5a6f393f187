"""What the device is spared: memory of attacks that keep the original elsewhere, and waiting in each step."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet
from _vantage import forgetting
from torch import nn
from torch.nn import functional as F

from lightning_unlearn import (
    GGUF,
    GPTQ,
    CausalLMReadout,
    ClassificationReadout,
    CrossEntropy,
    Noise,
    PretrainedCausalLM,
    Prune,
    Quantize,
    Relearn,
    RoundingNoise,
    Sharpen,
    StepGuard,
    TinyCausalLM,
    Wanda,
)
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards import History, NoChange

WIDTH = 2048  # four layers of 16 MiB
LAYERS = 4

ATTACKS: dict[str, tuple[Any, float]] = {
    # By how much the peak may rise, in sizes of the network: rounding works on one layer at a time.
    "quantize": (lambda: Quantize(4), 1.9),
    "quantize on cpu": (lambda: Quantize(4, store="cpu"), 0.9),
    "prune on cpu": (lambda: Prune(store="cpu"), 1.5),
    "wanda on cpu": (lambda: Wanda(store="cpu"), 1.5),
    "gguf on cpu": (lambda: GGUF("Q4_0", store="cpu"), 0.9),
    "gptq on cpu": (lambda: GPTQ(4, store="cpu"), 3.0),
    "rounding on cpu": (lambda: RoundingNoise(store="cpu"), 1.5),
    "relearn": (lambda: Relearn(steps=2, mode="full"), 6.5),
    "relearn on cpu": (lambda: Relearn(steps=2, mode="full", store="cpu"), 5.5),
    "adapter": (lambda: Relearn(steps=2), 0.9),
    "noise": (Noise, 2.5),
    "sharpen": (Sharpen, 3.5),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_needs_no_more_memory_than_is_said(
    name: str, device: torch.device, record_property: Any, capsys: Any
) -> None:
    if device.type == "cpu":
        pytest.skip("the CPU does not count its peak")
    make, most = ATTACKS[name]
    network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))).to(device)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    readout = ClassificationReadout()
    engine = GradientEngine(network)
    batch = [torch.randn(4, WIDTH, device=device), torch.randint(0, 9, (4,), device=device)]

    def loss(b: Any) -> torch.Tensor:
        return CrossEntropy()(readout(network, b))

    F.cross_entropy(network(batch[0]), batch[1]).backward()  # cuBLAS takes its workspace
    network.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with make()(network, batches=[batch, batch], loss=loss, engine=engine) as points:
        for _ in points:
            network(batch[0])
    rise = (torch.cuda.max_memory_allocated() - before) / size
    left = (torch.cuda.memory_allocated() - before) / size
    record_property("peak_in_sizes_of_the_network", rise)
    print(f"peak of {name}: {rise:.2f} sizes of the network, {left:.3f} left")
    assert rise <= most
    assert left < 0.05


class Quiet(SomebodysModule):
    """Does not wait for the device itself, as `SomebodysModule` does to keep its losses."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


PARTS: dict[str, tuple[Any, int]] = {
    # How often a step may wait for the device beyond the fit without us.
    "plain": (lambda: [forgetting()], 32),
    "guard": (lambda: [forgetting(), StepGuard(NoChange(), History(4))], 70),
    "quantized": (lambda: [forgetting(under={"int4": Quantize(4)})], 60),
}


def waits(*callbacks: Any, steps: int) -> Counter[str]:
    """Where the host waited for the device, by line, in a fit of ``steps`` steps. Batches come from pageable memory."""
    trainer = quiet(callbacks=list(callbacks), max_steps=steps, max_epochs=-1, log_every_n_steps=1000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.fit(Quiet("sgd"), loader(seed=1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message)]
    return Counter(f"{w.filename.rpartition('/site-packages/')[2]}:{w.lineno}" for w in found)


@pytest.mark.parametrize("part", PARTS)
def test_a_step_waits_for_the_device_no_more_than_is_said(part: str, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("nothing to wait for")
    make, most = PARTS[part]
    few, many = waits(*make(), steps=6), waits(*make(), steps=18)
    plain_few, plain_many = waits(steps=6), waits(steps=18)
    each = Counter({where: (n - few[where]) / 12 for where, n in many.items()})
    plain = (plain_many.total() - plain_few.total()) / 12
    print(f"waits in each step of `{part}` (without us {plain:.1f}):")
    for where, n in each.most_common():
        print(f"  {n:6.2f}  {where}")
    assert each.total() - plain <= most


def test_offloaded_activations_leave_the_device(tmp_path: Any, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("the CPU does not count its peak")
    TinyCausalLM(hidden_size=256, num_hidden_layers=8).save_pretrained(tmp_path)
    tokens = torch.randint(640, (16, 128), device=device)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    peaks, gradients = [], []
    for offload in (False, True):
        network = PretrainedCausalLM(str(tmp_path), activation_offloading=offload).to(device)
        for _ in range(2):
            network.zero_grad()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            CrossEntropy()(CausalLMReadout()(network, batch)).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        gradients.append([p.grad for p in network.parameters()])
    assert peaks[1] < peaks[0] / 2
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
