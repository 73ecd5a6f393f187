from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_unlearn.data._combined import apart, one_loader
from lightning_unlearn.data._loaders import Seeded, batch_size_of, makes_its_own_batches, rows_of, visited


def first_batches(loader: Any, count: int) -> list[Any]:
    """The first ``count`` batches of whatever a trainer trains on, without going through the loader itself if possible.

    Rows are taken from the data set, so samplers, positions and workers of the loader do not notice. Several loaders give a
    batch of each, as Lightning combines them. What can be gone through only once gives none.

    Example:
        >>> first_batches(DataLoader([1.0, 2.0, 3.0], batch_size=2, shuffle=True), 1)
        [tensor([1., 2.], dtype=torch.float64)]
        >>> first_batches(iter("ab"), 1)
        []
    """
    if isinstance(loader, Mapping):
        parts = zip(*(first_batches(part, count) for part in loader.values()), strict=False)
        return [dict(zip(loader, part, strict=True)) for part in parts]
    if isinstance(loader, Sequence) and any(isinstance(part, DataLoader) for part in loader):
        return [list(part) for part in zip(*(first_batches(part, count) for part in loader), strict=False)]
    loader = one_loader(loader)
    if loader is None or isinstance(loader, Iterator):
        return []
    return list(islice(Seeded(_rows_in_order(loader) if _has_rows(loader) else apart(loader)), count))


def _has_rows(loader: Any) -> bool:
    """Whether batches can be made from the rows of its data set: not if a subclass makes them in its own ``__iter__``."""
    return (
        isinstance(loader, DataLoader)
        and not makes_its_own_batches(loader)
        and not isinstance(loader.dataset, IterableDataset)
        and batch_size_of(loader) is not None
        and hasattr(loader.dataset, "__len__")
    )


def _rows_in_order(loader: Any) -> Iterator[Any]:
    rows = loader.dataset if rows_of(loader) is None else visited(loader)
    size = batch_size_of(loader)
    for start in range(0, len(rows), size):
        yield loader.collate_fn([rows[row] for row in range(start, min(start + size, len(rows)))])
