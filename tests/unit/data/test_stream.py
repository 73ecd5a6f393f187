"""The forget stream is a function of seed, position and rank, whatever the loader; the fit keeps its random numbers."""

from __future__ import annotations

import gc
import multiprocessing
import random
import weakref
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_unlearn.data import ForgetStream, first_batches, in_order, shared_batches
from lightning_unlearn.data._combined import one_loader
from lightning_unlearn.data._loaders import rows_of

ROWS = 10


class Augmented(Dataset[Tensor]):
    """Draws from all three generators."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()])


class Shuffling(IterableDataset[int]):
    """Draws its order when it is asked for the first row."""

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(ROWS).tolist()


class TwoLengths(Sampler[list[int]]):
    """Somebody's own rule for batches."""

    def __iter__(self) -> Iterator[list[int]]:
        for start in torch.randperm(5).tolist():
            yield [2 * start, 2 * start + 1][: 1 + start % 2]

    def __len__(self) -> int:
        return 5


def rows() -> list[int]:
    return list(range(ROWS))


LOADERS: dict[str, Any] = {
    "plain": lambda: DataLoader(rows(), 3),
    "shuffled": lambda: DataLoader(rows(), 3, shuffle=True),
    "workers": lambda: DataLoader(rows(), 3, num_workers=2),
    "dropping": lambda: DataLoader(rows(), 3, drop_last=True),
    "augmented": lambda: DataLoader(Augmented(), 3),
    "subset": lambda: DataLoader(rows(), 3, sampler=SubsetRandomSampler([7, 1, 4, 2, 9])),
    "batch_sampler": lambda: DataLoader(rows(), batch_sampler=BatchSampler(RandomSampler(rows()), 3, drop_last=False)),
    "own_batch_sampler": lambda: DataLoader(rows(), batch_sampler=TwoLengths()),
    "weighted": lambda: DataLoader(rows(), 3, sampler=WeightedRandomSampler([1.0] * ROWS, ROWS)),
    "iterable": lambda: DataLoader(Shuffling(), 3),
    "iterable_workers": lambda: DataLoader(Shuffling(), 3, num_workers=1),
    "unbatched": lambda: DataLoader([torch.tensor([0, 1]), torch.tensor([2])], batch_size=None, shuffle=True),
    "list": lambda: [torch.tensor([0, 1]), torch.tensor([2, 3, 4])],
}
KNOWN = ("plain", "shuffled", "dropping", "augmented", "subset", "batch_sampler")
HERE = [name for name in LOADERS if "workers" not in name]  # starting and ending processes takes its time
loaders = pytest.mark.parametrize("name", LOADERS)
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker")  # on one core


def take(stream: ForgetStream, n: int) -> list[list[Any]]:
    return [next(stream).tolist() for _ in range(n)]


def generators() -> Any:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@loaders
@pytest.mark.parametrize("position", [1, 5])
def test_position_resumes_exactly(name: str, position: int) -> None:
    whole = take(ForgetStream(LOADERS[name](), seed=3), 12)
    torch.rand(5), np.random.rand(5), random.random()  # whatever the fit has drawn meanwhile
    resumed = ForgetStream(LOADERS[name](), seed=3)
    resumed.seek(position)
    assert take(resumed, 12 - position) == whole[position:]
    assert resumed.position == 12
    resumed.seek(2)
    assert take(resumed, 2) == whole[2:4]


def test_closing_lets_workers_go_and_resumes_where_it_was() -> None:
    stream, whole = ForgetStream(LOADERS["workers"]()), ForgetStream(LOADERS["plain"]())
    before = set(multiprocessing.active_children())
    first = next(stream).tolist()
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    stream.close()
    assert not workers & set(multiprocessing.active_children())
    assert [first, next(stream).tolist()] == take(whole, 2)


@pytest.mark.parametrize("name", ["workers", "iterable_workers"])
def test_a_forgotten_stream_lets_workers_go_at_once(name: str) -> None:
    """No cycle of references keeps it for the garbage collector, which would wait for each worker."""
    stream = ForgetStream(LOADERS[name]())
    next(stream)
    forgotten = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert forgotten() is None
    finally:
        gc.enable()


@loaders
def test_the_fits_random_numbers_stay_its_own(name: str) -> None:
    before = generators()
    stream = ForgetStream(LOADERS[name](), seed=3)
    take(stream, 8)
    list(stream.sweep())
    stream.seek(5)
    take(stream, 1)
    assert generators() == before


@pytest.mark.parametrize("name", [name for name in HERE if name != "list"])
def test_the_seed_matters(name: str) -> None:
    assert take(ForgetStream(LOADERS[name](), seed=3), 8) != take(ForgetStream(LOADERS[name](), seed=4), 8)


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "dropping"])
def test_every_row_comes_once_an_epoch(name: str) -> None:
    expected = [1, 2, 4, 7, 9] if name == "subset" else rows()
    stream = ForgetStream(LOADERS[name]())
    for _ in range(3):
        batches = take(stream, -(-len(expected) // 3))
        seen = [row[0] if isinstance(row, list) else row for batch in batches for row in batch]
        assert sorted(seen) == expected
        assert [len(batch) for batch in batches[:-1]] == [3] * (len(batches) - 1)


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_a_loader_drops_is_dropped_in_every_epoch(world_size: int) -> None:
    """BatchNorm cannot take a batch of one. Rows that are left out in one epoch come in another."""
    loader = DataLoader(rows(), 3, drop_last=True)
    streams = [ForgetStream(loader, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [batch for stream in streams for batch in take(stream, 12)]
    assert [len(batch) for batch in batches] == [3] * 12 * world_size
    assert {row for batch in batches for row in batch} == set(rows())


def test_a_set_of_which_nothing_is_left_is_refused() -> None:
    loader = DataLoader(rows(), len(rows()), drop_last=True)
    assert len(next(ForgetStream(loader))) == len(rows())
    with pytest.raises(
        ValueError, match=r"at least one batch of 10 rows in each process\. Found fewer.*`drop_last=False`"
    ):
        ForgetStream(loader, world_size=2)


@pytest.mark.parametrize("name", HERE)
def test_sweep_sees_every_row_once(name: str) -> None:
    stream = ForgetStream(LOADERS[name]())
    seen = [row for batch in stream.sweep() for row in batch.tolist()]
    count = Counter(int(row[0]) if isinstance(row, list) else row for row in seen)
    if name != "weighted":  # which draws with replacement
        expected = {"subset": [1, 2, 4, 7, 9], "unbatched": [0, 1, 2], "list": [0, 1, 2, 3, 4]}.get(name, rows())
        expected = [0, 2, 3, 4, 6, 7, 8] if name == "own_batch_sampler" else expected
        assert count == Counter(expected)
    assert stream.position == 0


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("size", [6, 7, 12])
def test_k_ranks_see_what_one_process_with_k_times_the_batch_size_sees(world_size: int, size: int) -> None:
    one = ForgetStream(DataLoader(list(range(size)), 2 * world_size), seed=1)
    ranks = [
        ForgetStream(DataLoader(list(range(size)), 2), seed=1, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(9):
        whole = next(one).tolist()
        parts = [next(rank).tolist() for rank in ranks]
        together = sum((Counter(part) for part in parts), Counter())
        missing = len(whole) % world_size and world_size - len(whole) % world_size  # filled up at the end of an epoch
        assert len({len(part) for part in parts}) == 1
        assert (together - Counter(whole)).total() == missing
        assert not Counter(whole) - together


def test_sweeps_of_all_ranks_cover_everything_in_equally_many_batches() -> None:
    sweeps = [list(ForgetStream(DataLoader(rows(), 3), rank=r, world_size=3).sweep()) for r in range(3)]
    assert [len(s) for s in sweeps] == [2, 2, 2]
    assert {row for s in sweeps for batch in s for row in batch.tolist()} == set(rows())
    alone = [list(shared_batches("ab", rank, 4)) for rank in range(4)]
    assert alone == [[("a", True)], [("b", True)], [("b", False)], [("b", False)]]
    assert list(shared_batches([], 0, 2)) == []


def test_the_order_can_be_given() -> None:
    stream = ForgetStream(DataLoader(rows(), 2), order=lambda epoch: [epoch, 5, 6])
    assert take(stream, 4) == [[0, 5], [6], [1, 5], [6]]


def test_collation_and_workers_are_the_users() -> None:
    loader = DataLoader(rows(), 3, num_workers=1, collate_fn=tuple, prefetch_factor=4, persistent_workers=True)
    again = in_order(loader)
    for name in ("num_workers", "collate_fn", "prefetch_factor", "persistent_workers", "multiprocessing_context"):
        assert getattr(again, name) == getattr(loader, name)
    spawning = DataLoader(rows(), 3, num_workers=1, multiprocessing_context="spawn")
    assert in_order(spawning).multiprocessing_context.get_start_method() == "spawn"
    assert next(ForgetStream(DataLoader(rows(), 2, collate_fn=tuple), order=lambda _: rows())) == (0, 1)


LOOKS: dict[str, Any] = {
    "in order": lambda loader: list(in_order(loader)),
    "first batches": lambda loader: first_batches(loader, 1),
    "a stream": lambda loader: next(ForgetStream(loader)),
}


@pytest.mark.parametrize("among_others", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_whoever_is_in_the_middle_of_a_loader_goes_on_undisturbed(look: str, among_others: bool) -> None:
    loader = DataLoader(Shuffling(), 3, num_workers=1, persistent_workers=True)
    iterator = iter(loader)
    started = [next(iterator)]
    found = LOOKS[look](one_loader({"a": loader, "b": DataLoader(rows(), 3)} if among_others else loader))
    assert len(found)
    assert sorted(torch.cat([*started, *iterator]).tolist()) == rows()
    assert sorted(torch.cat(list(loader)).tolist()) == rows()


def test_in_order_is_repeatable_whatever_the_loader() -> None:
    for name in HERE:
        ordered, before = in_order(LOADERS[name]()), generators()
        first = [batch.tolist() for batch in ordered]
        assert [batch.tolist() for batch in ordered] == first, name
        assert generators() == before, name
    assert [b.tolist() for b in in_order(LOADERS["subset"]())] == [[1, 2, 4], [7, 9]]
    assert [b.tolist() for b in in_order(in_order(LOADERS["dropping"]()))] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_entities_follow_the_rows() -> None:
    class Named(list):
        entities = tuple("abcdefghij")

    loader = DataLoader(Named(rows()), 2, sampler=SubsetRandomSampler([3, 1]))
    assert in_order(loader).dataset.entities == ["b", "d"]
    assert not hasattr(in_order(LOADERS["subset"]()).dataset, "entities")


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (DataLoader(rows(), 3), rows()),
        (DataLoader(rows(), sampler=SequentialSampler(range(4))), [0, 1, 2, 3]),
        (DataLoader(rows(), sampler=RandomSampler(rows(), num_samples=4)), None),
        (DataLoader(rows(), sampler=RandomSampler(rows(), replacement=True)), None),
        (DataLoader(rows(), sampler=WeightedRandomSampler([1.0], 2)), None),
        (DataLoader(rows(), batch_size=None), None),
        (DataLoader(Shuffling(), 3), None),
        ([1, 2], None),
    ],
)
def test_rows_are_known_only_where_they_can_be(loader: Any, expected: list[int] | None) -> None:
    assert rows_of(loader) == expected


@pytest.mark.parametrize(
    "empty", [lambda: DataLoader([]), lambda: [], lambda: DataLoader(rows(), 3, sampler=SubsetRandomSampler([]))]
)
def test_nothing_to_forget_gets_one_clear_error(empty: Any) -> None:
    with pytest.raises(ValueError, match=r"The forget set should hold at least one example\. Found none"):
        next(ForgetStream(empty()))
    with pytest.raises(ValueError, match=r"The forget set should hold at least one example\. Found none"):
        list(islice(ForgetStream(empty()).sweep(), 1))
