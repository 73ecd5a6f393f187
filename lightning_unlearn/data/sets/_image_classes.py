from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.runtime import EitherPackage


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images with the numbers of their classes, and the names of these as entities.

    Args:
        images: ``[N, C, H, W]``, float32.
        labels: ``[N]``, int64.
        names: Of the classes, by number.
    """

    def __init__(self, images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        self.images, self.labels, self.names = images, labels, tuple(names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    @property
    def entities(self) -> list[str]:
        """The class of each image."""
        return [self.names[label] for label in self.labels.tolist()]

    def of(self, classes: Sequence[str], most: int | None, seed: int) -> ImageDataset:
        """The images of some classes, at most so many of each, drawn with a seed."""
        rows = [row for name in classes for row in self._of_class(self.names.index(name), most, seed)]
        kept = torch.tensor(sorted(rows), dtype=torch.int64)
        return ImageDataset(self.images[kept], self.labels[kept], self.names)

    def _of_class(self, number: int, most: int | None, seed: int) -> list[int]:
        rows = (self.labels == number).nonzero().squeeze(1).tolist()
        return [rows[place] for place in shuffled(len(rows), seed, number)[:most]]


class ImageClasses(EitherPackage, LightningDataModule):
    """Images of some classes: batches of ``(images [B, C, H, W], labels [B])``.

    Args:
        train: Images to train on.
        test: Images to validate and test on.
        loader: How they are cut into batches.
    """

    def __init__(self, train: ImageDataset, test: ImageDataset, loader: LoaderSettings) -> None:
        super().__init__()
        self.train, self.test, self.loader = train, test, loader

    @cached_property
    def dataset(self) -> ImageDataset:
        """The images to train on."""
        return self.train

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        return self.loader.training(self.train, None)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        return self.loader.in_order(self.test, None)

    @override
    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        return self.loader.in_order(self.test, None)
