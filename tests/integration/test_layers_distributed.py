"""Objectives on several layers, in fits of two real processes: sharded or not, the weights are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import VOCABULARY, family
from _modules import quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, whole
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import CyclicOrder, ForgetRetainData, Unlearn, UnlearningModule
from lightning_unlearn.objectives import MCU, ActivationMatch, MLPConfuse, Objective, RepresentationRerouting
from lightning_unlearn.readouts import LayersReadout

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*val_dataloader.*")]
MLPS = LayersReadout([r"layers\.[01]\.mlp"])


class ByBlock(UnlearningModule):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (*self.network.model.layers, self.network):
            fully_shard(part, mesh=mesh)


def rows(seed: int) -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(3, VOCABULARY, (8, 7), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": t, "labels": torch.where(torch.arange(7) > 2, t, -100)} for t in tokens]


def fit(kind: str, objective: Objective, world_size: int) -> dict[str, torch.Tensor]:
    made: Any = ByBlock if kind == "fsdp2" else UnlearningModule
    module = made(
        family("llama"),
        retain=ActivationMatch(),
        retain_readout=MLPS,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
    )
    strategy = STRATEGIES["fsdp2"][1]() if kind == "fsdp2" else DDPStrategy(find_unused_parameters=True)
    data = ForgetRetainData(
        retain=DataLoader(rows(1), 4 // world_size), forget=DataLoader(rows(2), 4 // world_size), order=CyclicOrder()
    )
    trainer = quiet(
        strategy=strategy if world_size > 1 else "auto",
        devices=world_size,
        callbacks=[Unlearn(objective, readout=MLPS)],
        max_steps=4,
        max_epochs=-1,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
    return whole(module, kind)


@pytest.mark.parametrize(
    "objective", [MLPConfuse(), MCU(components=2, rows=40), RepresentationRerouting(1.0)], ids=repr
)
def test_sharded_by_block_is_replicated(objective: Objective) -> None:
    """Each rank has its own share of the data; of ``MCU`` all have the same directions."""
    replicated = run_ranks(lambda rank, world: fit("ddp", objective, world))
    sharded = run_ranks(lambda rank, world: fit("fsdp2", objective, world))
    start = {f"network.{name}": p for name, p in family("llama").named_parameters()}
    assert max(float((replicated[0][n] - p.detach()).abs().max()) for n, p in start.items()) > 1e-4
    for found in (*sharded, replicated[1]):
        for name, value in replicated[0].items():
            assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
