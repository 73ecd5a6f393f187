"""Loops that are not Lightning's: a Hugging Face trainer, and one written with Fabric, on one tiny language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from _language_models import VOCABULARY, family
from _modules import quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, default_data_collator
from typing_extensions import override

from lightning_unlearn import Bounded, GradientAscent, Objective
from lightning_unlearn.loops import UnlearnTrainerCallback

RATE = 1e-2
Rows = list[dict[str, Tensor]]


def rows(seed: int, n: int, length: int = 8) -> Rows:
    """As a tokenised data set gives them. All of one length: a mean over tokens is then one over batches."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (n, length), generator=generator)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()} for ids in tokens]


RETAIN, FORGET = rows(1, n=10), rows(2, n=6)


def batches(of: Rows, batch_size: int = 2) -> DataLoader[Any]:
    return DataLoader(of, batch_size=batch_size, collate_fn=default_data_collator)  # type: ignore[arg-type]


def network(dtype: torch.dtype = torch.float64, **kwargs: Any) -> nn.Module:
    return family("llama", **kwargs).to(dtype)


def bounded() -> Objective:
    return Bounded(GradientAscent(), bound=4.0)


def hugging_face(
    model: nn.Module,
    callbacks: Sequence[pl.Callback] | None = None,
    kind: type[Trainer] = Trainer,
    optimizer: torch.optim.Optimizer | None = None,
    **settings: Any,
) -> Trainer:
    """A trainer that says little, and goes through its data in order."""
    defaults: dict[str, Any] = {
        "output_dir": "hugging_face",
        "per_device_train_batch_size": 2,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer = kind(
        model,
        TrainingArguments(**{**defaults, **settings}),
        train_dataset=RETAIN,
        data_collator=default_data_collator,
        optimizers=(optimizer, None),
    )
    if callbacks is not None:
        trainer.add_callback(UnlearnTrainerCallback(trainer, callbacks, forget=FORGET))
    return trainer


class SomebodysLanguageModule(pl.LightningModule):
    """The same fit in Lightning."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.network(**batch).loss

    def forget_dataloader(self) -> DataLoader[Any]:
        return batches(FORGET)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.network)


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)


def with_lightning(network: nn.Module, callbacks: Sequence[pl.Callback], **settings: Any) -> pl.Trainer:
    trainer = quiet(callbacks=list(callbacks), **settings)
    trainer.fit(SomebodysLanguageModule(network), batches(RETAIN))
    return trainer


def by_hand(network: nn.Module, forget: Sequence[Any], *, accumulate: int, clip: float | None, epochs: int = 1) -> None:
    """No trainer: one loss, the sum of the two."""
    optimizer, left = adamw(network), iter(forget)
    retain = list(batches(RETAIN))
    for _ in range(epochs):
        for start in range(0, len(retain), accumulate):
            step = retain[start : start + accumulate]
            for batch in step:
                unlearned = network(**next(left)).loss
                loss = network(**batch).loss + torch.relu(4.0 - unlearned)
                (loss / len(step)).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
