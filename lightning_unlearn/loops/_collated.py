from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader


def collated(trainer: Any, dataset: Any) -> Iterable[Any] | None:
    """Batches of ``dataset`` as a ``transformers.Trainer`` makes them for training: its collator, batch size, columns.

    Not its own loader: that one is in use, moves random states of all processes, and splits batches among them.

    Args:
        trainer: The trainer.
        dataset: A data set of rows; a loader is given back as it is.
    """
    if dataset is None or isinstance(dataset, DataLoader):
        return dataset
    collate = trainer.data_collator
    if hasattr(dataset, "column_names") and hasattr(
        dataset, "__len__"
    ):  # of `datasets`: columns can be left out at once
        dataset = trainer._remove_unused_columns(dataset, description="what must go or stay")
    else:
        collate = trainer._get_collator_with_removed_columns(collate, description="what must go or stay")
    return DataLoader(dataset, batch_size=trainer.args.train_batch_size, collate_fn=collate)
