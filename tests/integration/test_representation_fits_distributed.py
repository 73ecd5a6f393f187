"""In two processes, targets, probe and directions are those of one process, and so is the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, family
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import LANGUAGE_MODELS
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import (
    CyclicOrder,
    FindLatentTargets,
    ForgetRetainData,
    LiveProbe,
    RefitProbeDirections,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.objectives import EncodedMatch, GradientReversalProbe, ProbeAlignment, RepresentationDeviation
from lightning_unlearn.readouts import HiddenStateReadout, LayersReadout, PairedReadout, PromptEndReadout

STATES, LAYERS = HiddenStateReadout("layers.0"), LayersReadout([r"layers\.[01]"])


def rows(seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (16, 7), generator=generator)
    return [{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens]


PAIRED = [{**one, "companion": other} for one, other in zip(rows(2), rows(102), strict=True)]
CASES = {
    "targets": (
        lambda: Unlearn(EncodedMatch(rho=1.0), readout=STATES),
        lambda: [FindLatentTargets(unknown={"people": DataLoader(rows(3), 3)})],
        rows(2),
    ),
    "live probe": (
        lambda: Unlearn(GradientReversalProbe(), readout=PromptEndReadout(STATES)),
        lambda: [LiveProbe(lr=1e-2)],
        rows(2),
    ),
    "directions": (
        lambda: Unlearn(ProbeAlignment(), readout=PairedReadout(LAYERS)),
        lambda: [RefitProbeDirections(every_n_steps=2)],
        PAIRED,
    ),
    "deviation": (lambda: Unlearn(RepresentationDeviation(), readout=LAYERS, weight=5.0), lambda: [], rows(2)),
}


STRATEGIES: dict[str, Any] = {
    **LANGUAGE_MODELS,
    "one": (UnlearningModule, lambda: "auto"),
    "ddp": (UnlearningModule, lambda: DDPStrategy(find_unused_parameters=True)),
}


def fit(case: str, kind: str, world_size: int) -> dict[str, torch.Tensor]:
    unlearn, callbacks, forget = CASES[case]
    make, strategy = STRATEGIES[kind]
    module = make(family("llama"), optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))
    retain, forget = (DataLoader(data, 8 // world_size) for data in (rows(1), forget))
    data = ForgetRetainData(retain=retain, forget=forget, order=CyclicOrder())
    settings = {"max_steps": 4, "max_epochs": -1, "limit_val_batches": 0}
    quiet(strategy=strategy(), devices=world_size, callbacks=[unlearn(), *callbacks()], **settings).fit(module, data)
    values = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in module.network.named_parameters()}
    return {name: value.detach().clone() for name, value in values.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*val_dataloader.*")
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, kind: str) -> None:
    expected = fit(case, "one", 1)
    start = dict(family("llama").named_parameters())
    assert max((expected[name] - start[name]).abs().max().item() for name in expected) > 1e-3
    for ours in run_ranks(lambda rank, world: fit(case, kind, world)):
        for name, value in expected.items():
            assert_close(ours[name], value, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
