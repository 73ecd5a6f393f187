"""Which rows an epoch visits is what the order says, and depends on nothing but its arguments."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_unlearn.data import (
    BalancedOrder,
    ClassGraph,
    CyclicOrder,
    Difficulty,
    DifficultyOrder,
    EpochRows,
    Exponential,
    ForgetRetainData,
    ForgetStream,
    GivenScores,
    ModularOrder,
    MostAlike,
    NeighboursOrder,
    Order,
    PowerLaw,
    RandomOrder,
    RecencyOrder,
    ReoccurringOrder,
    RowSet,
    SameEntity,
    SequentialOrder,
    SpacedOrder,
    build,
)
from lightning_unlearn.data._stream import share
from lightning_unlearn.runtime import hash_of

# A new order joins here, and so is tested for all that orders promise.


class Facts:
    """Rows about three entities, that can be read."""

    def __init__(self, size: int) -> None:
        self.entities = [f"e{row % 3}" for row in range(size)]
        self.texts = [f"fact {row % 4} of e{row % 3}" for row in range(size)]

    def __len__(self) -> int:
        return len(self.entities)

    def __getitem__(self, index: int) -> int:
        return range(len(self))[index]


class ByNumber(Difficulty):
    """Some rows are as hard as others."""

    def __call__(self, forget: RowSet) -> list[float]:
        return [float(row * 7 % 5) for row in range(len(forget))]


ORDERS: dict[str, Order] = {
    "random": RandomOrder(),
    "cyclic": CyclicOrder(),
    "sequential": SequentialOrder(),
    "balanced": BalancedOrder(),
    "neighbours": NeighboursOrder(MostAlike(nearest=2)),
    "modular": ModularOrder(MostAlike(nearest=3)),
    "power law": RecencyOrder(PowerLaw()),
    "exponential": RecencyOrder(Exponential()),
    "spaced": SpacedOrder(views=2),
    "spaced, fixed": SpacedOrder(views=3, fixed=True),
    "reoccurring": ReoccurringOrder(entities=2),
    "easy first": DifficultyOrder(ByNumber()),
    "hard first": DifficultyOrder(ByNumber(), hardest_first=True),
}
ROUNDS = {"spaced": 2, "spaced, fixed": 3}
"""How many epochs it takes until each forget row has come, where these are several."""
SIZES = [(3, 10), (10, 3), (5, 5), (1, 7), (7, 1)]
sizes = pytest.mark.parametrize(("forget", "retain"), SIZES)
every_order = pytest.mark.parametrize("name", ORDERS)


def rows(order: Order, forget: int, retain: int, *, seed: int = 0, epoch: int = 0, sizes: Any = (1, 1)) -> EpochRows:
    sets = (RowSet(Facts(size), batch_size) for size, batch_size in zip((forget, retain), sizes, strict=True))
    return order.rows(*sets, seed=seed, epoch=epoch)


def pairs(name: str, forget: int, retain: int, seed: int = 0, epoch: int = 0) -> list[tuple[int, int]]:
    return list(zip(*rows(ORDERS[name], forget, retain, seed=seed, epoch=epoch), strict=True))


# What every order promises.


@every_order
@sizes
def test_no_epoch_is_longer_than_the_first_whose_length_a_trainer_keeps(name: str, forget: int, retain: int) -> None:
    first, *later = [rows(ORDERS[name], forget, retain, epoch=epoch) for epoch in range(7)]
    assert max(len(epoch.forget) for epoch in later) <= len(first.forget)
    assert max(len(epoch.retain) for epoch in later) <= len(first.retain)


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
    epochs = [
        rows(ORDERS[name], forget, retain, sizes=batch_sizes, epoch=epoch) for epoch in range(ROUNDS.get(name, 1))
    ]
    assert {row for visited in epochs for row in visited.forget} == set(range(forget))
    for visited in epochs:
        assert set(visited.retain) <= set(range(retain))
        batches = [-(-len(part) // size) for part, size in zip(visited, batch_sizes, strict=True)]
        assert batches[0] == batches[1] > 0


@every_order
@pytest.mark.parametrize("world_size", [2, 3])
def test_sharding_keeps_pairs_together(name: str, world_size: int) -> None:
    whole = rows(ORDERS[name], 9, 20, seed=3, epoch=2)
    shares = [[share(part, rank, world_size) for part in whole] for rank in range(world_size)]
    pairs = {pair for forget, retain in shares for pair in zip(forget, retain, strict=True)}
    assert pairs == set(zip(*whole, strict=True))


@every_order
def test_ranks_take_turns_in_one_global_order(name: str) -> None:
    data = ForgetRetainData(DataLoader(Facts(10), 2), DataLoader(Facts(6), 2), order=ORDERS[name], seed=3)
    order = data.forget_order()
    ranks = [ForgetStream(data.forget_dataloader(), order=order, rank=rank, world_size=2) for rank in range(2)]
    taken = [[row for _ in range(2) for row in next(stream).tolist()] for stream in ranks]
    together = [row for turn in zip(*taken, strict=True) for row in turn]
    expected = rows(ORDERS[name], 6, 10, seed=3, sizes=(2, 2)).forget
    assert together[: len(expected)] == expected[: len(together)]


@every_order
@pytest.mark.parametrize("position", [1, 3, 5, 7])
def test_a_stream_that_goes_to_a_position_is_one_that_came_there(name: str, position: int) -> None:
    data = ForgetRetainData(DataLoader(Facts(10), 2), DataLoader(Facts(6), 2), order=ORDERS[name], seed=3)
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


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_balanced_takes_each_entity_as_often_as_any_and_each_row_in_turn(epoch: int) -> None:
    forget, retain = RowSet(range(20), 1), RowSet(Named(*"aaaaaabbbc"), 1)
    drawn = [BalancedOrder().rows(forget, retain, seed=1, epoch=number).retain for number in range(epoch + 3)]
    for visited in drawn:
        times = Counter((retain.entities or [])[row] for row in visited)
        assert set(times) == set("abc")
        assert max(times.values()) - min(times.values()) <= 1
    # Six rows of `a`, seven turns in each epoch at most: no row of it waits longer than eleven turns.
    of_a = Counter(row for visited in drawn for row in visited if row < 6)
    assert max(of_a.values()) - min(of_a.values()) <= len(drawn)


def test_neighbours_meets_each_neighbour_of_each_row_once_before_any_comes_again() -> None:
    forget, retain = RowSet(Facts(7), 2), RowSet(Facts(40), 2)
    near = MostAlike(nearest=4)(forget, retain)
    order = NeighboursOrder(MostAlike(nearest=4))
    for start in (0, 4, 8):
        epochs = [order.rows(forget, retain, seed=2, epoch=start + epoch) for epoch in range(4)]
        met = Counter(pair for epoch in epochs for pair in zip(*epoch, strict=True))
        assert met == Counter((row, other) for row in range(7) for other in near[row])


def test_modular_goes_entity_by_entity_with_rows_of_the_same() -> None:
    forget, retain = RowSet(Named(*"abcabcab"), 1), RowSet(Named(*"ccbbaaabc"), 1)
    names, others = forget.entities or [], retain.entities or []
    orders = set()
    for epoch in range(6):
        visited = ModularOrder(SameEntity()).rows(forget, retain, seed=0, epoch=epoch)
        assert sorted(visited.forget) == list(range(8))
        about = [names[row] for row in visited.forget]
        assert about == [others[row] for row in visited.retain]
        runs = [name for name, before in zip(about, [None, *about], strict=False) if name != before]
        assert sorted(runs) == ["a", "b", "c"]
        orders.add(tuple(visited.forget))
    assert len(orders) == 6


def test_recency_follows_its_law_by_how_long_ago_an_entity_was_seen() -> None:
    """The oracle keeps when each was last seen, and counts the ages that were drawn."""
    groups, draws = 30, 40_000
    retain = RowSet(Named(*map(str, range(groups))), 1)
    for exponent in (0.5, 1.0, 1.5):
        order = RecencyOrder(PowerLaw(exponent))
        drawn = order.rows(RowSet(range(draws), 1), retain, seed=0, epoch=0).retain
        seen = {entity: entity - groups for entity in range(groups)}
        ages: Counter[int] = Counter()
        for time, entity in enumerate(drawn):
            ages[1 + sum(last > seen[entity] for last in seen.values())] += 1
            seen[entity] = time
        age = torch.arange(1, groups + 1, dtype=torch.float64).log()
        count = torch.tensor([ages[number] for number in range(1, groups + 1)], dtype=torch.float64).log()
        weight = count.exp()  # an age that was seldom drawn says little of the slope
        centred = [value - (value * weight).sum() / weight.sum() for value in (age, count)]
        slope = float((weight * centred[0] * centred[1]).sum() / (weight * centred[0] ** 2).sum())
        assert abs(slope + exponent) < 0.05


def test_recency_of_exponent_zero_is_uniform_and_exponential_halves() -> None:
    from scipy import stats

    retain = RowSet(Named(*"abcdefgh"), 1)
    uniform = RecencyOrder(PowerLaw(0.0)).rows(RowSet(range(8000), 1), retain, seed=1, epoch=0).retain
    assert stats.chisquare(list(Counter(uniform).values())).pvalue > 0.01
    halving = RecencyOrder(Exponential(0.6931471805599453)).rows(RowSet(range(8000), 1), retain, seed=1, epoch=0).retain
    again = sum(row == before for row, before in zip(halving[1:], halving, strict=False))
    assert abs(again / 8000 - 0.5 / (1 - 0.5**8)) < 0.02


def test_recency_goes_on_where_the_last_epoch_ended() -> None:
    retain = RowSet(Named(*"abcdef"), 1)
    steep = RecencyOrder(PowerLaw(60.0))  # only ever the last one seen
    for epoch in range(4):
        assert set(steep.rows(RowSet(range(5), 1), retain, seed=0, epoch=epoch).retain) == {5}


@pytest.mark.parametrize("views", [1, 2, 4])
@pytest.mark.parametrize("fixed", [True, False])
def test_spaced_shows_each_row_so_often_in_one_epoch_of_so_many(views: int, fixed: bool) -> None:
    order, cycles, seen = SpacedOrder(views, fixed), 3, {}
    for epoch in range(cycles * views):
        visited = rows(order, 11, 20, epoch=epoch).forget
        assert set(Counter(visited).values()) == {views}
        assert all(visited[place] == visited[place - place % views] for place in range(len(visited)))
        for row in set(visited):
            seen.setdefault(row, []).append(epoch)
    assert sorted(seen) == list(range(11))
    for epochs in seen.values():
        assert [epoch // views for epoch in epochs] == list(range(cycles))
    pauses = {after - before for epochs in seen.values() for before, after in pairwise(epochs)}
    assert pauses == {views} if fixed or views == 1 else pauses - {views}


def test_reoccurring_gives_each_entity_its_frequency_and_no_other_in_between() -> None:
    from scipy import stats

    retain = RowSet(Named(*"aabbbcddef"), 1)
    counts: Counter[str] = Counter()
    for epoch in range(600):
        drawn = ReoccurringOrder(entities=2).rows(RowSet(range(12), 1), retain, seed=5, epoch=epoch).retain
        about = {(retain.entities or [])[row] for row in drawn}
        assert len(about) == 2
        pool = [row for row, name in enumerate(retain.entities or []) if name in about]
        times = Counter(drawn)
        assert set(times) == set(pool)
        assert max(times.values()) - min(times.values()) <= 1
        counts.update(about)
    assert sum(counts.values()) == 1200
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_difficulty_sorts_and_leaves_ties_to_chance() -> None:
    scores = [0.5, 0.1, 0.1, 0.9, 0.1]
    orders = {
        hardest: {tuple(rows(DifficultyOrder(GivenScores(scores), hardest), 5, 5, epoch=e).forget) for e in range(60)}
        for hardest in (False, True)
    }
    for hardest, found in orders.items():
        assert len(found) == 6
        for visited in found:
            sorted_scores = [scores[row] for row in visited]
            assert sorted_scores == sorted(scores, reverse=hardest)


def test_scores_are_read_from_a_file_and_are_as_many_as_rows(tmp_path: Any) -> None:
    (tmp_path / "scores.json").write_text("[3, 1, 2]")
    assert GivenScores(str(tmp_path / "scores.json"))(RowSet(range(3), 1)) == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="one number for each of the 4 forget rows. Found 3"):
        GivenScores([1.0, 2.0, 3.0])(RowSet(range(4), 1))


def test_a_class_graph_leads_where_it_says_and_nowhere_else() -> None:
    forget, retain = RowSet(Named("cat", "car"), 1), RowSet(Named("dog", "ship", "dog"), 1)
    assert ClassGraph({"cat": ["dog"], "car": ["ship", "dog"]})(forget, retain) == [[0, 2], [1, 0, 2]]
    for edges in ({"cat": ["dog"]}, {"cat": ["dog"], "car": ["bus"]}):
        with pytest.raises(ValueError, match="`edges` should lead from each entity"):
            ClassGraph(edges)(forget, retain)
    with pytest.raises(ValueError, match="Found none about 'car'"):
        SameEntity()(forget, retain)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SpacedOrder(0), "`views` should be at least 1"),
        (lambda: ReoccurringOrder(0), "`entities` should be at least 1"),
        (lambda: PowerLaw(-1), "`exponent` should be finite and not negative"),
        (lambda: Exponential(0), "`rate` should be positive"),
        (lambda: MostAlike(nearest=0), "`nearest` should be at least 1"),
        (lambda: ClassGraph({}), "`edges` should be lists"),
        (lambda: BalancedOrder().rows(RowSet(range(2), 1), RowSet(range(2), 1), seed=0, epoch=0), "name the entity"),
        (lambda: MostAlike()(RowSet(range(2), 1), RowSet(range(2), 1)), "rows can be read"),
    ],
)
def test_what_an_order_cannot_do_is_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_neighbours_are_looked_up_once_for_the_same_data() -> None:
    calls = []

    class Counting(MostAlike):
        def __call__(self, forget: RowSet, retain: RowSet) -> list[list[int]]:
            calls.append(1)
            return super().__call__(forget, retain)

    order, forget, retain = NeighboursOrder(Counting()), RowSet(Facts(3), 1), RowSet(Facts(5), 1)
    for epoch in range(3):
        order.rows(forget, retain, seed=0, epoch=epoch)
    assert len(calls) == 1
    other = RowSet(Facts(4), 1)
    for epoch in range(3):  # as the two loaders of a fit ask in turn
        order.rows(other, retain, seed=0, epoch=epoch)
        order.rows(forget, retain, seed=0, epoch=epoch)
    assert len(calls) == 2


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
