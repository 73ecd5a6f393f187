from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_unlearn.data._loader_settings import LoaderSettings
from lightning_unlearn.data.encodings import Batch, Encoding
from lightning_unlearn.data.records import QuestionAnswer, Records


class QuestionAnswerDataset(Dataset[Batch]):
    """Encoded questions and answers, each ``{"input_ids": [T], "labels": [T]}`` with -100 where nothing is supervised.

    Args:
        rows: What to ask and to answer.
        encoding: How rows become tokens.

    Example:
        >>> rows = [QuestionAnswer("Who employs Ada?", "The post office", entity="Ada", source="row 0")]
        >>> QuestionAnswerDataset(rows, Encoding("bundled")).entities
        ['Ada']
    """

    def __init__(self, rows: Sequence[QuestionAnswer], encoding: Encoding) -> None:
        self.rows = tuple(rows)
        self._examples = [encoding(row) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self._examples[index]

    @property
    def entities(self) -> list[str]:
        """Whom or what each row is about."""
        return [row.entity for row in self.rows]


class EncodedData(LightningDataModule, ABC):
    """Training, validation and test loaders over one encoded data set.

    Args:
        records: Where the rows come from.
        encoding: How rows become tokens.
        loader: How they are cut into batches.
    """

    def __init__(self, records: Records, encoding: Encoding, loader: LoaderSettings) -> None:
        super().__init__()
        # Plain attributes, not `save_hyperparameters`: LightningCLI hands nested data modules each other's.
        self.records = records
        self.encoding = encoding
        self.loader = loader

    @property
    @abstractmethod
    def dataset(self) -> Dataset[Any]:
        """All rows, encoded."""

    def collate(self) -> Callable[[Any], Any]:
        """How rows of :attr:`dataset` become a batch."""
        return self.encoding.collate()

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
