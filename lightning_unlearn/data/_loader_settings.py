from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from lightning_unlearn.data._epoch_shuffle import EpochShuffle
from lightning_unlearn.data._lazy_loader import LazyLoader
from lightning_unlearn.functional.settings import check_whole


@dataclass(frozen=True)
class LoaderSettings:
    """How a data set is cut into batches.

    Args:
        batch_size: Rows per batch.
        shuffle: Whether the training loader shuffles.
        seed: Seed of the shuffled order. On several devices Lightning replaces the sampler by its own.
        num_workers: Worker processes of each loader.

    Example:
        >>> rows = list("abcde")
        >>> [len(batch) for batch in LoaderSettings(batch_size=2).training(rows, list)]
        [2, 2, 1]
        >>> list(LoaderSettings(batch_size=2).in_order(rows, list))
        [['a', 'b'], ['c', 'd'], ['e']]
    """

    batch_size: int = 8
    shuffle: bool = True
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_whole("batch_size", self.batch_size)
        check_whole("num_workers", self.num_workers, least=0)

    def training(self, dataset: Dataset[Any], collate: Callable[[Any], Any] | None) -> DataLoader[Any]:
        """Batches to train on, shuffled if ``shuffle``."""
        if not self.shuffle:
            return self.in_order(dataset, collate)
        return self._loader(dataset, collate, EpochShuffle(dataset, seed=self.seed))  # type: ignore[arg-type]  # has a length

    def in_order(self, dataset: Dataset[Any], collate: Callable[[Any], Any] | None) -> DataLoader[Any]:
        """Batches to measure by, in the order of the data set."""
        return self._loader(dataset, collate, SequentialSampler(dataset))  # type: ignore[arg-type]  # has a length

    def _loader(self, dataset: Dataset[Any], collate: Callable[[Any], Any] | None, sampler: Any) -> DataLoader[Any]:
        return LazyLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            # Without a generator of its own every pass would advance the global random state.
            generator=torch.Generator().manual_seed(self.seed),
        )
