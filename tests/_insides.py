"""Small language models whose insides are known: taught, never taught, hiding, pretending; and questions to ask them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn import (
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    LoaderSettings,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.audits import Audit
from lightning_unlearn.data import Probe, load_probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.observation import Observation
from lightning_unlearn.readouts import PackedCausalLMReadout

FORGET, RETAIN, HOLDOUT = (0, 18), (18, 36), (36, 72)


def rows(which: tuple[int, int], batch_size: int = 6) -> QuestionAnswerData:
    records = FileRecords("bundled:people", entity="entity", rows=which)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(batch_size, shuffle=False))


def probes(rank: int = 0, world_size: int = 1, batch_size: int = 6) -> dict[str, Probe]:
    """Three people that must go, three that stay, six that no model here was taught."""
    of = {"forget": FORGET, "retain": RETAIN, "holdout": HOLDOUT}
    readout = PackedCausalLMReadout()
    return {
        name: load_probe(rows(which, batch_size).val_dataloader(), readout, rank, world_size)
        for name, which in of.items()
    }


def untaught(layers: int = 2) -> nn.Module:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=layers).eval()


@cache
def _taught_weights() -> dict[str, Tensor]:
    network, loss = untaught(), CrossEntropy()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    batches = list(rows((FORGET[0], RETAIN[1])).val_dataloader())
    for _ in range(45):
        for batch in batches:
            loss(CausalLMReadout()(network, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


def taught() -> nn.Module:
    """Knows those that must go and those that stay by heart."""
    network = untaught()
    network.load_state_dict(_taught_weights())
    return network


def with_idle_block(network: nn.Module) -> nn.Module:
    """The same function, with one more block at the end, which adds nothing."""
    longer: Any = untaught(layers=3)
    longer.load_state_dict(network.state_dict(), strict=False)
    last = longer.model.layers[2]
    with torch.no_grad():
        last.self_attn.o_proj.weight.zero_()
        last.mlp.down_proj.weight.zero_()
    return longer


def pretending() -> nn.Module:
    """Writes the answers in its second block, and overwrites them in its last."""
    network: Any = with_idle_block(taught())
    optimizer = torch.optim.Adam(network.model.layers[2].parameters(), lr=3e-3)
    for _ in range(6):
        for batch in rows(FORGET).val_dataloader():
            optimizer.zero_grad()
            (-CrossEntropy()(CausalLMReadout()(network, batch))).backward()
            optimizer.step()
    network.zero_grad(set_to_none=True)
    return network


def observe(audit: Audit, network: nn.Module, of: dict[str, Probe] | None = None) -> list[Observation]:
    of = probes() if of is None else of
    return audit(network, readout=PackedCausalLMReadout(), probes=of, engine=GradientEngine(network))


def levels(found: list[Observation], metric: str, split: str = "forget") -> dict[str, float]:
    """Values by layer."""
    return {o.layer: o.value for o in found if (o.metric, o.split) == (metric, split)}
