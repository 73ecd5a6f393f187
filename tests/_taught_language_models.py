"""A tiny language model that refuses what must go and answers the rest, word for word; and the rows it was taught."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from lightning_unlearn import (
    CausalLMReadout,
    CrossEntropy,
    Encoding,
    FileRecords,
    ForgetRetainData,
    LoaderSettings,
    PairedData,
    QuestionAnswerData,
    SequentialOrder,
    TinyCausalLM,
)
from lightning_unlearn.data import Refusals
from lightning_unlearn.readouts import CompanionReadout

LOADER = LoaderSettings(batch_size=3, shuffle=False)
FORGET, RETAIN = (0, 6), (6, 15)


def rows(which: tuple[int, int]) -> QuestionAnswerData:
    return QuestionAnswerData(FileRecords("bundled:people", rows=which), Encoding("bundled"), LOADER)


def refused() -> PairedData:
    return PairedData(FileRecords("bundled:people", rows=FORGET), Refusals(), Encoding("bundled"), LOADER)


def split() -> ForgetRetainData:
    return ForgetRetainData(retain=rows(RETAIN), forget=rows(FORGET), order=SequentialOrder())


def network() -> nn.Module:
    return TinyCausalLM(hidden_size=64, num_hidden_layers=2)


@cache
def taught_weights() -> dict[str, Tensor]:
    """Weights that refuse what must go, and answer the rest."""
    taught, loss = network(), CrossEntropy()
    refusals = list(refused().val_dataloader())
    answers = list(rows(RETAIN).val_dataloader())
    optimizer = torch.optim.AdamW(taught.parameters(), lr=3e-3, weight_decay=0.0)
    readouts = [(CompanionReadout(), batch) for batch in refusals] + [(CausalLMReadout(), batch) for batch in answers]
    for _ in range(60):
        for readout, batch in readouts:
            loss(readout(taught, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return taught.state_dict()
