"""Rows of fits whose forget rows run in the retain rows' pass, and a counter of passes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from _language_models import VOCABULARY


def rows(seed: int, width: int, n: int = 24) -> list[dict[str, torch.Tensor]]:
    """Questions that begin alike, of several lengths, padded to ``width``."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(n):
        length = width - number % 3
        tokens = torch.randint(3, VOCABULARY, (width,), generator=generator)
        tokens[:2] = torch.tensor([3, 4])
        mask = (torch.arange(width) < length).long()
        labels = tokens.masked_fill((torch.arange(width) < 4) | (mask == 0), -100)
        found.append({"input_ids": tokens * mask, "attention_mask": mask, "labels": labels})
    return found


class Passes(pl.Callback):
    """Counts passes with a graph in each optimizer step."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.logged: list[dict[str, float]] = []
        self._handle: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.counted = [0] * (trainer.max_steps + 1)

        def count(*_: Any) -> None:
            if torch.is_grad_enabled():
                self.counted[trainer.global_step] += 1

        self._handle = pl_module.network.register_forward_pre_hook(count)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        names = ("retain_loss", "unlearn/forget", "unlearn/retain")
        self.logged.append({name: float(trainer.callback_metrics.get(name, 0)) for name in names})

    def on_train_end(self, *_: Any) -> None:
        self._handle.remove()
