from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader


class ResumableLoader(DataLoader[Any]):
    """A ``DataLoader`` whose position inside an epoch is saved in the checkpoint.

    Lightning does not fast-forward a plain ``DataLoader``: a fit resumed inside an epoch would see its first batches again.
    It saves and restores the state of loaders that have ``state_dict`` and ``load_state_dict``, as this one has.
    """

    batches_as_torch = True  # `__iter__` below gives the batches of a plain `DataLoader`
    trainer: pl.Trainer | None = None
    _served = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all the trainer needs
        # For one pass only: the epoch after a resumed one starts at its beginning.
        skip, self._skip = self._skip, 0
        self._served = skip
        batches = super().__iter__()
        for _ in range(skip):
            next(batches)
        for batch in batches:
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches served in this epoch; 0 at its end."""
        # `limit_train_batches` may end an epoch early. At its end the next one starts afresh: hence the remainder.
        limit = len(self) if self.trainer is None else min(len(self), self.trainer.num_training_batches)
        return {"served": self._served % max(int(limit), 1)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that were served before, in the next pass."""
        self._skip = state["served"]
