from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(pl.LightningModule):
    """Tells kinds of measurements apart.

    Args:
        width: Of the hidden layer.
        lr: Learning rate.
    """

    def __init__(self, width: int = 16, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "train_loss")

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "val_loss")

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch, "test_loss")

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

    def _loss(self, batch: Any, name: str) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log(name, loss)
        return loss


class Pair(Classifier):
    """A classifier that holds another module.

    Args:
        width: Of the hidden layer.
        other: The other one.
    """

    def __init__(self, width: int = 16, other: pl.LightningModule | None = None) -> None:
        super().__init__(width)
        self.save_hyperparameters("width")
        self.other = other
