"""Loss and gradient of a readout, compared with those that transformers computes itself, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from families_parts._batches import IGNORED, Batch, alone
from families_parts._forward import forward
from lightning_unlearn.readouts import Readout

Truth = tuple[float, dict[str, Tensor]]
EXACT = 1e-5
_FLOOR = 0.01


def own(network: nn.Module, batch: Batch) -> Truth:
    """Loss per supervised token and its gradient, by the network's own loss of each row without padding."""
    return _row_by_row(network, batch, lambda row: forward(network, **row).loss)


def next_token(network: nn.Module, batch: Batch) -> Truth:
    """The same for networks whose own loss takes labels that somebody else has shifted: by cross-entropy of all logits."""

    def loss(row: Batch) -> Tensor:
        logits = forward(network, input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits
        return functional.cross_entropy(logits[0, :-1].float(), row["labels"][0, 1:], ignore_index=IGNORED)

    return _row_by_row(network, batch, loss)


def _row_by_row(network: nn.Module, batch: Batch, loss_of: Callable[[Batch], Tensor]) -> Truth:
    rows = alone(batch)
    weights = [int((row["labels"][:, 1:] != IGNORED).sum()) for row in rows]
    network.zero_grad()
    loss = 0.0
    for row, weight in zip(rows, weights, strict=True):
        part = loss_of(row) * (weight / sum(weights))
        part.backward()
        loss += float(part.detach())
    return loss, _gradients(network)


def read(readout: Readout, network: nn.Module, batch: Batch) -> tuple[float, dict[str, Tensor], bool]:
    """Loss and gradient by a readout, and whether it ran the rows as one sequence."""
    network.zero_grad()
    with _rows_of_last_call(network) as rows:
        loss = readout(network, batch).token_nll().mean()
    loss.backward()
    return float(loss.detach()), _gradients(network), rows[-1] < len(batch["labels"])


def differences(truth: Truth, found: tuple[float, dict[str, Tensor]]) -> tuple[float, float]:
    """Relative difference of the losses, and the largest of the gradients of single tensors.

    A tensor's is relative to its own norm, or to one hundredth of that of all if its own is smaller: rounding is as
    large there.
    """
    (loss, gradients), (other, others) = truth, found
    whole = torch.stack([g.norm() for g in gradients.values()]).norm()
    apart = [float((others[k] - g).norm() / torch.maximum(g.norm(), _FLOOR * whole)) for k, g in gradients.items()]
    return abs(loss - other) / abs(loss), max(apart)


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
        if p.requires_grad
    }


@contextmanager
def _rows_of_last_call(network: nn.Module) -> Iterator[list[int]]:
    rows: list[int] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"] if "input_ids" in kwargs else args[0]))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()
