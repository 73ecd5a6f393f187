"""Which rows a user's loader visits, and loaders of the same rows in another order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from lightning_unlearn.data._combined import apart
from lightning_unlearn.runtime import hash_of, seeded

_MOST_BATCHES = 100_000
"""More batches are not waited for: an endless stream would be gone through for ever, without a word."""


def rows_of(loader: Iterable[Any]) -> list[int] | None:
    """Rows of its data set that ``loader`` visits in one epoch, in ascending order; ``None`` if they are not known.

    They are not known for an ``IterableDataset``, an iterable of batches, a sampler with rules of its own, or a loader of
    a class that iterates in a way of its own.

    Example:
        >>> rows_of(DataLoader(list("abcd"), sampler=torch.utils.data.SubsetRandomSampler([3, 1])))
        [1, 3]
        >>> rows_of(["a batch", "another"]) is None
        True
    """
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or batch_size_of(loader) is None
        or makes_its_own_batches(loader)
    ):
        return None
    size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else -1
    # `loader.sampler` is a dummy where the user has given a batch sampler: torch fills in a `SequentialSampler`.
    sampler: Any = loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else None
    # With replacement, or with `num_samples`, an epoch misses rows or repeats them: which, is drawn later.
    if isinstance(sampler, RandomSampler):
        return list(range(size)) if not sampler.replacement and len(sampler) == size else None
    # A `DistributedSampler` visits one rank's share; all ranks together visit every row.
    if isinstance(sampler, (SequentialSampler, DistributedSampler)):
        return list(range(len(sampler) if isinstance(sampler, SequentialSampler) else size))
    indices = getattr(sampler, "indices", None)  # torch's `SubsetRandomSampler`
    return None if indices is None else sorted(int(i) for i in indices)


def makes_its_own_batches(loader: DataLoader[Any]) -> bool:
    """Whether its class iterates in a way of its own: a plain loader of the same rows would give other batches."""
    kind = type(loader)
    changed = any(getattr(kind, name) is not getattr(DataLoader, name) for name in ("__iter__", "_get_iterator"))
    return changed and not getattr(kind, "batches_as_torch", False)


def drops_last(loader: Any) -> bool:
    """Whether ``loader`` leaves out a last batch that is smaller than the others.

    Example:
        >>> drops_last(DataLoader([1, 2, 3], batch_size=2, drop_last=True)), drops_last(["a batch"])
        (True, False)
    """
    # torch sets `drop_last` of the loader to `False` where a batch sampler was given.
    return bool(getattr(getattr(loader, "batch_sampler", None), "drop_last", False))


def batch_size_of(loader: Any) -> Any:
    """Rows per batch; ``None`` if a batch sampler of the user's does not tell."""
    # torch sets `batch_size` to `None` where a batch sampler was given.
    return loader.batch_size if loader.batch_size is not None else getattr(loader.batch_sampler, "batch_size", None)


def in_order(loader: Iterable[Any]) -> Iterable[Any]:
    """All batches of ``loader``, in the order of its data set, none dropped: the same in each pass.

    Global random states stay as they are, also where rows or collation draw from them.

    Raises:
        ValueError: While iterating, if the batches seem never to end.
    """
    if rows_of(loader) is None:
        return Seeded(apart(loader), most=_MOST_BATCHES)
    return reordered(loader, InOrder, batch_size=batch_size_of(loader), shuffle=False)


def reordered(loader: Any, kind: type[DataLoader[Any]] = DataLoader, **order: Any) -> DataLoader[Any]:
    """The same rows, collation and workers in another order."""
    return kind(
        visited(loader),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        # Its own generator: a loader without one draws from the global RNG each time it is iterated.
        generator=torch.Generator().manual_seed(0),
        **order,
    )


def visited(loader: Any) -> Any:
    """The data set of a loader whose rows are known, without the rows that it does not visit.

    Example:
        >>> list(visited(DataLoader(list("abcd"), sampler=torch.utils.data.SubsetRandomSampler([3, 1]))))
        ['b', 'd']
    """
    rows = rows_of(loader) or []
    return loader.dataset if rows == list(range(len(loader.dataset))) else _Selected(loader.dataset, rows)


class Seeded:
    """The batches of a loader in its own order, each drawn under random states of its own.

    Whose own order a ``DataLoader`` has is not known, so that no data set is named whose rows the batches would be.

    Example:
        >>> noise = Seeded(torch.rand(1) for _ in range(2))
        >>> torch.manual_seed(1).initial_seed(), len(list(noise)), torch.initial_seed()
        (1, 2, 1)
    """

    def __init__(self, loader: Iterable[Any], *seeds: int, start: int = 0, most: int | None = None) -> None:
        self.loader = loader
        self.dataset = None if isinstance(loader, DataLoader) else getattr(loader, "dataset", None)
        self._seeds, self._start, self._most = seeds, start, most

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] | None = None
        for number in count(self._start):
            with seeded(hash_of(*self._seeds, number)):
                # Inside, since `iter` draws as well: a shuffled order, and the base seed of the workers.
                iterator = iter(self.loader) if iterator is None else iterator
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            if number == self._most:
                raise ValueError(
                    f"Data that are gone through once should come to an end. Found {number} batches of a "
                    f"`{type(self.loader).__name__}` and no end. Give a loader of a finite data set, or, for checks, "
                    "`RecoveryCheck(probes=..., attack_data=...)`."
                )
            # Outside: whatever the caller draws between batches comes from its own random states.
            yield batch


class InOrder(DataLoader[Any]):
    """A ``DataLoader`` that draws each batch under random states of its own."""

    batches_as_torch = True

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator is all that is needed
        return iter(Seeded(self._batches()))

    def _batches(self) -> Iterator[Any]:
        yield from super().__iter__()


class _Selected(Subset[Any]):
    @property
    def entities(self) -> list[str]:
        """The entity of each selected row, if the whole data set names entities."""
        entities = self.dataset.entities  # type: ignore[attr-defined]
        return [entities[i] for i in self.indices]

    @property
    def texts(self) -> list[str]:
        """The text of each selected row, if the whole data set has texts."""
        texts = self.dataset.texts  # type: ignore[attr-defined]
        return [texts[i] for i in self.indices]
