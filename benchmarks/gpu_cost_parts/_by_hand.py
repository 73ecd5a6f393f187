from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F

from gpu_cost_parts._meter import Meter
from gpu_cost_parts._model import compile_decoder, loaders, network

Batch = dict[str, torch.Tensor]
Backward = Callable[[Any, Any, Batch, Batch], None]


def by_hand(backward: Backward, *, lora: bool = False, reference: bool = False) -> Callable[..., None]:
    """A training loop as one would write it: autocast, fused AdamW."""

    def run(meter: Meter, size: str, length: int, dtype: torch.dtype, *, compiled: bool) -> None:
        device = meter.device
        model = network(size, device, dtype, lora=lora).train()
        original = copy.deepcopy(model).requires_grad_(False).eval() if reference else None
        if compiled:
            compile_decoder(model)
        params = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(params, lr=1e-5, fused=True)
        mixed = dtype == torch.float32
        for retain, forget in batches(device, size, length):
            meter.start()
            with torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext():
                backward(model, original, retain, forget)
            optimizer.step()
            optimizer.zero_grad()
            if meter.end():
                return

    return run


def batches(device: torch.device, size: str, length: int) -> Iterator[tuple[Batch, Batch]]:
    retain, forget = loaders(size, length)
    while True:
        for kept, gone in zip(retain, [*forget] * 100, strict=False):
            yield tuple({k: v.to(device, non_blocking=True) for k, v in b.items()} for b in (kept, gone))  # type: ignore[misc]


def fine_tuning(model: Any, original: Any, retain: Batch, forget: Batch) -> None:
    """Both batches are learned, one after the other."""
    for batch in (retain, forget):
        model(**batch).loss.backward()


def two_losses(model: Any, original: Any, retain: Batch, forget: Batch) -> None:
    """Gradient difference in one graph: the forget loss is climbed."""
    (model(**retain).loss - model(**forget).loss).backward()


def npo(model: Any, original: Any, retain: Batch, forget: Batch, beta: float = 0.1) -> None:
    """Negative preference optimisation with a frozen copy, in one graph."""
    nll = _example_nll(model(**forget).logits, forget["labels"])
    with torch.no_grad():
        before = _example_nll(original(**forget).logits, forget["labels"])
    (-2 / beta * F.logsigmoid(beta * (nll - before)).mean() + model(**retain).loss).backward()


def _example_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], ignore_index=-100, reduction="none")
    return losses.sum(1)
