"""Which rows an epoch visits is what the pairing says, and depends on nothing but its arguments."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from lightning_unlearn.data import forget_order, retain_order
from lightning_unlearn.data._pairing import hash_of

SIZES = [(3, 10), (10, 3), (5, 5), (1, 7), (7, 1)]
sizes = pytest.mark.parametrize(("forget", "retain"), SIZES)
pairings = pytest.mark.parametrize("pairing", ["random", "cyclic", "sequential"])


def pairs(pairing: Any, forget: int, retain: int, seed: int = 0, epoch: int = 0) -> list[tuple[int, int]]:
    arguments: dict[str, int] = {"forget": forget, "retain": retain, "seed": seed, "epoch": epoch}
    rows = forget_order(pairing, **arguments), retain_order(pairing, **arguments)
    return list(zip(*rows, strict=True))


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


@pairings
@sizes
def test_the_same_arguments_give_the_same_order_and_no_draw(pairing: Any, forget: int, retain: int) -> None:
    state = torch.get_rng_state()
    first = pairs(pairing, forget, retain, seed=3, epoch=2)
    torch.rand(1)
    assert pairs(pairing, forget, retain, seed=3, epoch=2) == first
    torch.set_rng_state(state)
    pairs(pairing, forget, retain, seed=3, epoch=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_epoch_both_matter_and_neighbours_are_unrelated() -> None:
    orders = {tuple(pairs("random", 20, 20, seed=seed, epoch=epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    forget = {
        tuple(forget_order("random", forget=20, retain=20, seed=s, epoch=e)) for s in range(10) for e in range(10)
    }
    retain = {
        tuple(retain_order("random", forget=20, retain=20, seed=s, epoch=e)) for s in range(10) for e in range(10)
    }
    assert len(forget | retain) == 200  # the pairing itself is random, not only the order of the pairs


def test_hashes_depend_on_each_number_and_its_place() -> None:
    hashes = {hash_of(*numbers) for numbers in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (1, 0, 0), (-1,)]}
    assert len(hashes) == 9
    assert all(0 <= h < 2**63 for h in hashes)
    assert hash_of(1, 2) == 5142973159532490859  # it is in no checkpoint, but resumed fits rely on it
