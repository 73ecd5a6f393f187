from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class LazyLoader(DataLoader[Any]):
    """A ``DataLoader`` that asks its sampler for rows when the first batch is wanted, and not before.

    A plain one with workers asks at once. A resumed trainer begins to iterate before it tells the sampler the epoch.
    """

    batches_as_torch = True  # `__iter__` below gives the batches of a plain `DataLoader`

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all the trainer needs
        yield from super().__iter__()
