from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Measurements(pl.LightningDataModule):
    """Measurements of five kinds.

    Args:
        seed: Which measurements.
        n: How many.
        batch_size: How many at a time.
        shuffle: Whether training goes over them in another order each time.
    """

    def __init__(self, seed: int = 1, n: int = 16, batch_size: int = 4, shuffle: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.hparams.seed)
        n = self.hparams.n
        self.rows = TensorDataset(
            torch.randn(n, 8, generator=generator), torch.randint(0, 5, (n,), generator=generator)
        )

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=self.hparams.batch_size, shuffle=self.hparams.shuffle)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=self.hparams.batch_size)

    def test_dataloader(self) -> Any:
        return self.val_dataloader()
