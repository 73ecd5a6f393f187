"""The first batches of a loader are those of its data set, and the loader does not notice."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, WeightedRandomSampler

from lightning_unlearn.data import first_batches

ROWS = [torch.tensor(float(i)) for i in range(10)]


def values(batches: list[Any]) -> list[list[float]]:
    return [batch.tolist() for batch in batches]


def test_rows_come_in_the_order_of_the_data_whatever_the_sampler() -> None:
    generator = torch.Generator().manual_seed(0)
    samplers = [RandomSampler(ROWS, generator=generator), WeightedRandomSampler([1.0] * 10, 10, generator=generator)]
    before = generator.get_state()
    for sampler in samplers:
        loader = DataLoader(ROWS, batch_size=4, sampler=sampler, generator=generator)
        assert values(first_batches(loader, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(generator.get_state(), before)


def test_fewer_rows_than_asked_for_are_all_there_is() -> None:
    assert values(first_batches(DataLoader(ROWS[:3], batch_size=2), 5)) == [[0, 1], [2]]


class Doubled(DataLoader[Any]):
    """Makes batches in a way of its own."""

    def __iter__(self) -> Any:
        return (2 * batch for batch in super().__iter__())


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(ROWS)


def test_a_loader_with_batches_of_its_own_is_asked_for_them() -> None:
    assert values(first_batches(Doubled(ROWS, batch_size=2), 1)) == [[0, 2]]
    assert values(first_batches(DataLoader(Stream(), batch_size=2), 1)) == [[0, 1]]
    assert first_batches(["a", "b", "c"], 2) == ["a", "b"]


def test_several_loaders_give_a_batch_of_each() -> None:
    loaders = {"a": DataLoader(ROWS, batch_size=2), "b": DataLoader(ROWS[5:], batch_size=1)}
    (batch,) = first_batches(loaders, 1)
    assert {name: part.tolist() for name, part in batch.items()} == {"a": [0, 1], "b": [5]}
    assert [part.tolist() for part in first_batches(list(loaders.values()), 1)[0]] == [[0, 1], [5]]


def test_what_can_be_gone_through_only_once_is_left_alone() -> None:
    once = iter("ab")
    assert first_batches(once, 1) == []
    assert list(once) == ["a", "b"]
    assert first_batches(None, 1) == []
