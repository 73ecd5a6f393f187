"""Which rows an epoch visits is what the order says, and depends on nothing but its arguments."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_unlearn.data import (
    CyclicOrder,
    EpochRows,
    ForgetRetainData,
    ForgetStream,
    Order,
    RandomOrder,
    RowSet,
    SequentialOrder,
    build,
)
from lightning_unlearn.data._hashing import hash_of

# A new order joins here, and so is tested for all that orders promise.
ORDERS: dict[str, Order] = {"random": RandomOrder(), "cyclic": CyclicOrder(), "sequential": SequentialOrder()}
SIZES = [(3, 10), (10, 3), (5, 5), (1, 7), (7, 1)]
sizes = pytest.mark.parametrize(("forget", "retain"), SIZES)
every_order = pytest.mark.parametrize("name", ORDERS)


def rows(order: Order, forget: int, retain: int, *, seed: int = 0, epoch: int = 0, sizes: Any = (1, 1)) -> EpochRows:
    sets = (RowSet(range(size), batch_size) for size, batch_size in zip((forget, retain), sizes, strict=True))
    return order.rows(*sets, seed=seed, epoch=epoch)


def pairs(name: str, forget: int, retain: int, seed: int = 0, epoch: int = 0) -> list[tuple[int, int]]:
    return list(zip(*rows(ORDERS[name], forget, retain, seed=seed, epoch=epoch), strict=True))


# What every order promises.


@every_order
@sizes
def test_the_same_arguments_give_the_same_order_and_no_draw(name: str, forget: int, retain: int) -> None:
    state = torch.get_rng_state()
    first = pairs(name, forget, retain, seed=3, epoch=2)
    torch.rand(1)
    assert pairs(name, forget, retain, seed=3, epoch=2) == first
    torch.set_rng_state(state)
    pairs(name, forget, retain, seed=3, epoch=2)
    assert torch.equal(torch.get_rng_state(), state)


@every_order
@sizes
@pytest.mark.parametrize("batch_sizes", [(1, 1), (2, 5), (5, 2), (3, 4)])
def test_every_forget_row_is_visited_and_there_are_as_many_batches_of_both(
    name: str, forget: int, retain: int, batch_sizes: tuple[int, int]
) -> None:
    visited = rows(ORDERS[name], forget, retain, sizes=batch_sizes)
    assert set(visited.forget) == set(range(forget))
    assert set(visited.retain) <= set(range(retain))
    batches = [-(-len(part) // size) for part, size in zip(visited, batch_sizes, strict=True)]
    assert batches[0] == batches[1]


@every_order
def test_ranks_take_turns_in_one_global_order(name: str) -> None:
    data = ForgetRetainData(DataLoader(range(10), 2), DataLoader(range(6), 2), order=ORDERS[name], seed=3)
    order = data.forget_order()
    ranks = [ForgetStream(data.forget_dataloader(), order=order, rank=rank, world_size=2) for rank in range(2)]
    taken = [[row for _ in range(2) for row in next(stream).tolist()] for stream in ranks]
    together = [row for turn in zip(*taken, strict=True) for row in turn]
    expected = rows(ORDERS[name], 6, 10, seed=3, sizes=(2, 2)).forget
    assert together[: len(expected)] == expected[: len(together)]


@every_order
@pytest.mark.parametrize("position", [1, 3, 5, 7])
def test_a_stream_that_goes_to_a_position_is_one_that_came_there(name: str, position: int) -> None:
    data = ForgetRetainData(DataLoader(range(10), 2), DataLoader(range(6), 2), order=ORDERS[name], seed=3)
    whole, resumed = (ForgetStream(data.forget_dataloader(), order=data.forget_order()) for _ in range(2))
    seen = [next(whole).tolist() for _ in range(12)]
    resumed.seek(position)
    assert [next(resumed).tolist() for _ in range(12 - position)] == seen[position:]


# What each promises.


@sizes
def test_sequential_is_each_forget_row_with_the_retain_row_of_its_number(forget: int, retain: int) -> None:
    assert pairs("sequential", forget, retain) == [(i, i % retain) for i in range(forget)]


@sizes
def test_cyclic_goes_through_the_longer_set_once(forget: int, retain: int) -> None:
    assert pairs("cyclic", forget, retain) == [(i % forget, i % retain) for i in range(max(forget, retain))]


@sizes
def test_random_is_every_forget_row_once_with_retain_rows_as_even_as_can_be(forget: int, retain: int) -> None:
    drawn = pairs("random", forget, retain)
    assert Counter(f for f, _ in drawn) == Counter(range(forget))
    times = Counter(r for _, r in drawn)
    assert set(times) <= set(range(retain))
    assert max(times.values()) - min(times[r] for r in range(retain)) <= 1


def test_random_draws_a_new_sample_each_epoch_until_all_were_seen() -> None:
    seen = [{r for _, r in pairs("random", 10, 100, epoch=epoch)} for epoch in range(4)]
    assert all(len(s) == 10 for s in seen)
    # 34.4 of 100 on average; sequential would stay at 10, cyclic at 100.
    assert 25 <= len(set.union(*seen)) <= 40


def test_seed_and_epoch_both_matter_and_neighbours_are_unrelated() -> None:
    orders = {tuple(pairs("random", 20, 20, seed=seed, epoch=epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    drawn = [rows(RandomOrder(), 20, 20, seed=s, epoch=e) for s in range(10) for e in range(10)]
    # Which rows go together is random, not only when they come.
    assert len({tuple(part) for both in drawn for part in both}) == 200


# What the three gave when they were functions: fits that are resumed rely on it.
BEFORE = {
    ("random", 3, 7, (1, 1), 0, 0): ([1, 0, 2], [0, 1, 5]),
    ("random", 3, 7, (1, 1), 5, 2): ([0, 1, 2], [2, 4, 6]),
    ("random", 7, 3, (2, 3), 0, 1): ([1, 5, 4, 0, 2, 6, 3], [2, 1, 0, 1, 0, 2, 2, 1, 0, 2, 1]),
    ("random", 5, 9, (2, 3), 1, 0): ([3, 2, 4, 0, 1], [2, 8, 6, 0, 4, 1, 5, 3]),
    ("cyclic", 3, 7, (1, 1), 0, 0): ([0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6]),
    ("cyclic", 3, 7, (1, 1), 5, 2): ([0, 1, 2, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5, 6]),
    ("cyclic", 7, 3, (2, 3), 0, 1): ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]),
    ("cyclic", 5, 9, (2, 3), 1, 0): ([0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ("sequential", 3, 7, (1, 1), 0, 0): ([0, 1, 2], [0, 1, 2]),
    ("sequential", 3, 7, (1, 1), 5, 2): ([0, 1, 2], [0, 1, 2]),
    ("sequential", 7, 3, (2, 3), 0, 1): ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]),
    ("sequential", 5, 9, (2, 3), 1, 0): ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7]),
}


@pytest.mark.parametrize("case", BEFORE, ids=str)
def test_the_sequences_are_those_that_checkpoints_rely_on(case: Any) -> None:
    name, forget, retain, batch_sizes, seed, epoch = case
    assert rows(ORDERS[name], forget, retain, seed=seed, epoch=epoch, sizes=batch_sizes) == BEFORE[case]


# What an order may look at.


class Named:
    """Rows with names."""

    def __init__(self, *entities: str) -> None:
        self.entities = list(entities)

    def __len__(self) -> int:
        return len(self.entities)

    def __getitem__(self, index: int) -> int:
        return index


class EntityByEntity(Order):
    """All about one, then all about the next."""

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, forget: RowSet, retain: RowSet, trainer: Any) -> None:
        self.prepared += 1
        self.trainer = trainer

    def rows(self, forget: RowSet, retain: RowSet, *, seed: int, epoch: int) -> EpochRows:
        entities = forget.entities or []
        by_entity = sorted(range(len(forget)), key=lambda row: entities[row])
        return EpochRows(by_entity, [0] * retain.rows_for(forget))


def test_an_order_sees_the_data_and_the_trainer() -> None:
    order = EntityByEntity()
    data = ForgetRetainData(DataLoader(range(9), 2), DataLoader(Named("b", "a", "b", "a"), 2), order=order)
    data.trainer = trainer = object()
    stream = ForgetStream(data.forget_dataloader(), order=data.forget_order())
    assert [next(stream).tolist() for _ in range(2)] == [[1, 3], [0, 2]]
    assert order.prepared == 1
    assert order.trainer is trainer


def test_an_order_counts_the_rows_that_a_sampler_visits() -> None:
    chosen = torch.utils.data.SubsetRandomSampler([3, 1])
    data = ForgetRetainData(
        DataLoader(range(9), 2), DataLoader(Named("b", "a", "b", "c"), 1, sampler=chosen), order=EntityByEntity()
    )
    stream = ForgetStream(data.forget_dataloader(), order=data.forget_order())
    assert [next(stream).tolist() for _ in range(2)] == [[1], [3]]


def test_it_looks_once_in_each_fit() -> None:
    order = EntityByEntity()
    data = ForgetRetainData(DataLoader(range(9), 2), DataLoader(Named("b", "a"), 2), order=order)
    for fit in (1, 2):
        data.setup("fit")
        data.forget_order()
        list(data.train_dataloader())
        assert order.prepared == fit


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ("CyclicOrder", CyclicOrder),
        ("lightning_unlearn.SequentialOrder", SequentialOrder),
        ({"class_path": f"{__name__}.EntityByEntity"}, EntityByEntity),
        (None, type(None)),
        (..., type(None)),
    ],
    ids=str,
)
def test_yaml_builds_it_also_from_outside(order: Any, kind: type) -> None:
    part = {
        "class_path": "lightning_unlearn.QuestionAnswerData",
        "init_args": {"records": {"path": "bundled:people"}, "encoding": {"tokenizer": "bundled"}},
    }
    arguments = {"retain": part, "forget": part} | ({} if order is ... else {"order": order})
    spec = {"class_path": "lightning_unlearn.ForgetRetainData", "init_args": arguments}
    assert type(build(spec, LightningDataModule).order) is kind


def test_without_names_there_are_none() -> None:
    assert RowSet(range(3), 1).entities is None


def test_hashes_depend_on_each_number_and_its_place() -> None:
    hashes = {hash_of(*numbers) for numbers in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (1, 0, 0), (-1,)]}
    assert len(hashes) == 9
    assert all(0 <= h < 2**63 for h in hashes)
    assert hash_of(1, 2) == 5142973159532490859  # it is in no checkpoint, but resumed fits rely on it
