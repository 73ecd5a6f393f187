"""Losses of the rows of a request, for those who choose by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data import Encoding, LoaderSettings, QuestionAnswerData, Records
from lightning_unlearn.readouts import choose_readout
from lightning_unlearn.runtime import eval_without_grad

_AT_ONCE = 8


def batches(records: Records, encoding: Encoding) -> Iterator[Any]:
    """The rows in order, encoded."""
    yield from QuestionAnswerData(records, encoding, LoaderSettings(batch_size=_AT_ONCE)).val_dataloader()


def row_losses(network: nn.Module, records: Records, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Of each row, the negative log-likelihood of its answer, and how many tokens that is a sum over: ``[n]`` each."""
    readout, losses, tokens = choose_readout(network), [], []
    for batch in batches(records, encoding):
        with eval_without_grad(network):
            prediction: Any = readout(network, batch)
        losses.append(prediction.example_nll().double())
        tokens.append(prediction.rows_per_example().double())
    return torch.cat(losses), torch.cat(tokens)
