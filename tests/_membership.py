"""Probes without a network behind them, and people of whom some are taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_unlearn import (
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    LoaderSettings,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.data import Probe, load_probe
from lightning_unlearn.readouts import Exchange

FORGET, HOLDOUT, RETAIN = (0, 40), (40, 80), (80, 120)


def probe(entities: Sequence[str], exchanges: list[Exchange] | None = None, key: str = "") -> Probe:
    return Probe([], list(entities), key or str(entities), len(entities), exchanges)


def people(rows: tuple[int, int]) -> Any:
    records = FileRecords("bundled:people", entity="entity", rows=rows)
    return QuestionAnswerData(records, Encoding("bundled"), LoaderSettings(20)).val_dataloader()


def people_probes() -> dict[str, Probe]:
    rows = {"forget": FORGET, "holdout": HOLDOUT}
    return {split: load_probe(people(of_split), CausalLMReadout()) for split, of_split in rows.items()}


def taught(net: nn.Module, *, epochs: int, sign: float, lr: float) -> nn.Module:
    """Trained on the retain people, and on those to forget; with ``sign=-1`` away from the latter."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    for _ in range(epochs):
        for batches in zip(people(FORGET), people(RETAIN), strict=True):
            forget, retain = (CrossEntropy()(CausalLMReadout()(net, batch)) for batch in batches)
            (sign * forget.clamp_max(12.0) + retain).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net


def untaught(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyCausalLM(hidden_size=64)
