"""A sequence of requests that takes a second: a tiny network, a few people, a step each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_unlearn import NPO, LoRA, TinyCausalLM
from lightning_unlearn.data import Encoding, FileRecords, InMemoryRecords
from lightning_unlearn.requests import Request, RequestSequence, TrainerFit, read_requests

PEOPLE = FileRecords("bundled:people", entity="entity")
ENCODING = Encoding("bundled")


def requests(number: int) -> list[Request]:
    """Of one person each."""
    return read_requests("bundled:people", field="entity", entity="entity")[:number]


def tiny() -> nn.Module:
    return TinyCausalLM(hidden_size=16, num_hidden_layers=2)


def tiny_with_adapter() -> nn.Module:
    return LoRA(r=2, alpha=8.0).wrap(tiny())


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0)


def plain_fit(network: Any = tiny, **settings: Any) -> TrainerFit:
    given = {"optimizer": adam, "epochs": 2, "batch_size": 6, "trainer": {"accelerator": "cpu"}, **settings}
    return TrainerFit(network, NPO(), **given)


def sequence(folder: Path, fit: Any = None, **settings: Any) -> RequestSequence:
    given = {"every": 2, "retain_rows": 6, "batch_size": 12, **settings}
    return RequestSequence(folder, plain_fit() if fit is None else fit, given.pop("retain", PEOPLE), ENCODING, **given)


def rows(*about: tuple[str, str, str]) -> InMemoryRecords:
    """Records of questions, answers and entities."""
    return InMemoryRecords([{"question": q, "answer": a, "entity": e} for q, a, e in about], entity="entity")


def ledger_of(folder: Path) -> bytes:
    return (folder / "ledger.jsonl").read_bytes()


def files_of(folder: Path) -> dict[str, bytes]:
    """Weights by name, as they are on the disk."""
    return {path.name: path.read_bytes() for path in sorted((folder / "weights").iterdir())}
