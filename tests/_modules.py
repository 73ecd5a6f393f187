"""LightningModules as users write them: they know nothing of unlearning."""

from __future__ import annotations

import os
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 5
ACCELERATOR = "LIGHTNING_UNLEARN_TEST_ACCELERATOR"


def examples(seed: int, n: int = 24, width: int = 8) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(n, width, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator)
    )


def loader(seed: int, n: int = 24, batch_size: int = 4, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(examples(seed, n), batch_size=batch_size, **kwargs)


class SomebodysModule(pl.LightningModule):
    """Own hooks, own logs, two parameter groups, a scheduler, an unused parameter."""

    def __init__(self, optimizer: str = "adamw", width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.body = nn.Sequential(nn.Linear(width, 16), nn.LayerNorm(16), nn.GELU())
            self.head = nn.Linear(16, CLASSES)
        self.unused = nn.Parameter(torch.ones(3))
        self.optimizer = optimizer
        self.called: list[str] = []
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("my_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_start(self) -> None:
        self.called.append("on_train_epoch_start")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.called.append("on_before_optimizer_step")

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **kwargs: Any) -> None:
        self.called.append("configure_gradient_clipping")
        self.clip_gradients(optimizer, gradient_clip_val=gradient_clip_val, **kwargs)

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [*self.body.parameters(), self.unused], "lr": 3e-2},
            {"params": self.head.parameters(), "lr": 1e-2, "weight_decay": 0.0},
        ]
        kinds = {
            "sgd": lambda: torch.optim.SGD(groups, lr=1e-2, momentum=0.9),
            "adamw": lambda: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
        }
        optimizer = kinds[self.optimizer]()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class HostileModule(pl.LightningModule):
    """Everything an inner loop can disturb: dropout, BatchNorm, metrics, counters, lists, all three random generators."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.net = nn.Sequential(
                nn.Linear(8, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, CLASSES)
            )
        self.mean_loss = torchmetrics.MeanMetric()
        self.calls = 0
        self.history: list[int] = []
        self.noise = np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history.append(len(x))
        self.noise += 0.5
        self.mean_loss.update(float(len(x)))
        return self.net(x) * (1 + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * torch.rand(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y) * (1 + 1e-3 * self.calls + 1e-3 * len(self.history))
        self.log("train_loss", loss + float(self.noise.sum()), on_step=True, on_epoch=True)
        self.log("sizes", self.mean_loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Restored(pl.Callback):
    """Gives another callback a state when a trainer does: after `setup`, before the fit starts."""

    def __init__(self, callback: pl.Callback, state: dict[str, Any]) -> None:
        self.callback, self.state = callback, state

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.callback.load_state_dict(self.state)


def quiet(**kwargs: Any) -> pl.Trainer:
    """A trainer that says and writes nothing; on the CPU, but in the tests of `tests/gpu`."""
    defaults: dict[str, Any] = {
        "accelerator": os.environ.get(ACCELERATOR, "cpu"),
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**{**defaults, **kwargs})


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
