from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice
from typing import Any

from torch.utils.data import Sampler

from lightning_unlearn.data._combined import apart
from lightning_unlearn.data._hashing import shuffled
from lightning_unlearn.data._loaders import Seeded, batch_size_of, drops_last, in_order, reordered, rows_of

RowsByEpoch = Callable[[int], list[int]]
"""From an epoch to the rows it visits."""


class ForgetStream:
    """An endless stream of forget micro-batches that is a pure function of seed, position and rank.

    One integer, :attr:`position`, resumes it exactly. Data set, batch size, collation and workers are those of the user's
    loader; the order is ours. Ranks take every ``world_size``-th row of one global order, so ``k`` processes with batch
    size ``b`` see what one process with batch size ``k b`` sees.

    A loader whose rows are not known beforehand (an ``IterableDataset``, a sampler with rules of its own, a loader class
    with an ``__iter__`` of its own, any iterable of batches) is iterated again and again, and resumed by drawing batches
    and dropping them. Each batch is drawn under random states of its own. So random augmentation in this process is
    resumed too, and the fit's own random numbers do not change.

    Args:
        loader: The user's forget loader.
        order: Rows by epoch. Defaults to every row once, shuffled anew each epoch.
        seed: Of the shuffling.
        rank: Number of this process.
        world_size: Number of processes.
        name: Of the set, in errors.

    Raises:
        ValueError: If the set is empty.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> stream = ForgetStream(DataLoader(list(range(4)), batch_size=2), order=lambda epoch: [0, 1, 2, 3])
        >>> [next(stream).tolist() for _ in range(3)], stream.position
        ([[0, 1], [2, 3], [0, 1]], 3)
        >>> stream.seek(1)
        >>> next(stream).tolist()
        [2, 3]
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        order: RowsByEpoch | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "forget",
    ) -> None:
        self.loader = loader
        self.name = name
        self.position = 0
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._rows = rows_of(loader)
        self._order = order if order is not None else partial(_shuffled, len(self._rows or []), seed)
        self._iterator: Iterator[Any] | None = None
        if self._rows == []:
            raise ValueError(empty_set(name))
        if self._rows and drops_last(loader) and -(-len(self._rows) // world_size) < batch_size_of(loader):
            raise ValueError(_too_small(name, batch_size_of(loader)))

    def seek(self, position: int) -> None:
        """Go to micro-batch number ``position``, counted from the start of training."""
        self.close()
        self.position = position

    def close(self) -> None:
        """Stop the loader's workers; the next micro-batch starts them again.

        Workers that are left to the garbage collector take seconds each to stop.
        """
        self._iterator = None

    def __next__(self) -> Any:
        """The next micro-batch, on the CPU."""
        if self._iterator is None:
            self._iterator = iter(self._batches())
        batch = next(self._iterator)
        self.position += 1
        return batch

    def sweep(self) -> Iterator[Any]:
        """This rank's share of all forget data, each example once; every rank yields equally many batches."""
        empty = True
        for batch, _ in shared_batches(in_order(self.loader), self._rank, self._world_size):
            empty = False
            yield batch
        if empty:
            raise ValueError(empty_set(self.name))

    def _batches(self) -> Iterable[Any]:
        # The rank is among the seeds: ranks augment their rows independently.
        if self._rows is None:
            return islice(_repeated(apart(self.loader), self.name, self._seed, self._rank), self.position, None)
        # Here only row numbers are skipped on a resume; no batch is loaded in vain.
        sampler = _Batches(
            self._order,
            batch_size_of(self.loader),
            self._rank,
            self._world_size,
            start=self.position,
            drop_last=drops_last(self.loader),
        )
        batches = reordered(self.loader, batch_sampler=sampler)
        return Seeded(batches, self._seed, self._rank, start=self.position)


def _repeated(loader: Iterable[Any], name: str, *seeds: int) -> Iterator[Any]:
    for epoch in count():
        # Asked in each epoch: an iterator that is used up after the first would make this an endless, silent loop.
        empty = True
        for batch in Seeded(loader, *seeds, epoch):
            empty = False
            yield batch
        if empty:
            raise ValueError(empty_set(name))


def _shuffled(rows: int, seed: int, epoch: int) -> list[int]:
    return shuffled(rows, seed, 2 * epoch)  # the seeds by which `RandomOrder` shuffles forget rows


def empty_set(name: str) -> str:
    """The error message for an empty set."""
    return (
        f"The {name} set should hold at least one example. Found none. Check its path, its filter and its split; "
        "a `DataLoader` with `drop_last=True` drops a set smaller than its batch size."
    )


def _too_small(name: str, batch_size: int) -> str:
    return (
        f"An epoch of the {name} set should have at least one batch of {batch_size} rows in each process. Found fewer, and "
        "`drop_last=True`, which drops what is left over. Use a smaller batch, or `drop_last=False`."
    )


def shared_batches(loader: Iterable[Any], rank: int, world_size: int) -> Iterator[tuple[Any, bool]]:
    """Every ``world_size``-th batch, and whether it is this rank's own.

    If the number of batches is no multiple of ``world_size``, ranks without a last batch get somebody else's, marked
    ``False``: every rank must call a sharded network equally often.

    Example:
        >>> [list(shared_batches("abc", rank, 2)) for rank in range(2)]
        [[('a', True), ('c', True)], [('b', True), ('c', False)]]
    """
    total = 0
    batch = None
    for total, batch in enumerate(loader, start=1):
        if (total - 1) % world_size == rank:
            yield batch, True
    if total % world_size and rank >= total % world_size:
        yield batch, False


class _Batches(Sampler[list[int]]):
    def __init__(
        self, order: RowsByEpoch, batch_size: int, rank: int, world_size: int, *, start: int, drop_last: bool
    ) -> None:
        self._order, self._size, self._start, self._drop_last = order, batch_size, start, drop_last
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self._all(), self._start, None)

    def _all(self) -> Iterator[list[int]]:
        for epoch in count():
            rows = share(self._order(epoch), self._rank, self._world_size)
            # A batch never spans two epochs: the last of an epoch is smaller, or dropped. Rows that are dropped now come
            # at another place in the next epoch.
            batches = [rows[i : i + self._size] for i in range(0, len(rows), self._size)]
            if self._drop_last and batches and len(batches[-1]) < self._size:
                batches.pop()
            if not batches:
                raise ValueError(_too_small("forget", self._size))
            yield from batches


def share(rows: list[int], rank: int, world_size: int) -> list[int]:
    """Every ``world_size``-th row, starting at ``rank``. The first rows are repeated at the end: all ranks get as many.

    Example:
        >>> [share([0, 1, 2, 3, 4], rank, 2) for rank in range(2)]
        [[0, 2, 4], [1, 3, 0]]
    """
    missing = -len(rows) % world_size
    # Times `world_size`, then cut: with fewer rows than ranks the same rows are needed more than once.
    return (rows + rows[:missing] * world_size)[: len(rows) + missing][rank::world_size]
