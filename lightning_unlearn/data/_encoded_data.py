from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.runtime import EitherPackage


class EncodedData(EitherPackage, LightningDataModule):
    """Rows that are encoded once, in training, validation and test loaders; only the first may shuffle.

    Args:
        loader: How rows are cut into batches.
    """

    def __init__(self, loader: LoaderSettings) -> None:
        super().__init__()
        # Not `save_hyperparameters`: under LightningCLI a nested datamodule would save the outer one's arguments.
        self.loader = loader

    @cached_property
    @abstractmethod
    def dataset(self) -> Dataset[Any]:
        """The encoded rows."""

    @abstractmethod
    def collate(self) -> Callable[[Any], Any]:
        """How rows of :attr:`dataset` become a batch."""

    @override
    def setup(self, stage: str) -> None:
        _ = self.dataset

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader.training(self.dataset, self.collate())

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader.in_order(self.dataset, self.collate())

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader.in_order(self.dataset, self.collate())
