"""The forget micro-batches around the current ones, which an attacker in the loop trains on."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.forgetting._batch_window import BatchWindow, WaitingBatch

ROWS, SIZE = 40, 2


def window(reach: int = 3, rows: int = ROWS, seed: int = 7) -> BatchWindow:
    """Rows are numbers, and their own keys; they come in order."""
    data = DataLoader(range(rows), batch_size=SIZE)  # type: ignore[arg-type]
    stream = ForgetStream(data, order=lambda epoch: list(range(rows)))
    return BatchWindow(stream, (seed,), lambda batch: [str(row) for row in batch.tolist()], reach)


def numbers(batches: list[WaitingBatch]) -> list[int]:
    """Which micro-batches of an epoch they are."""
    return [batch.batch.tolist()[0] // SIZE for batch in batches]


def test_the_following_are_looked_at_and_come_next_all_the_same() -> None:
    found = window()
    assert numbers(found.take(2)) == [0, 1]
    assert numbers(found.following()) == numbers(found.following()) == [2, 3, 4]
    assert found.position == 2
    assert numbers(found.take(4)) == [2, 3, 4, 5]
    assert numbers(found.following()) == [6, 7, 8]
    assert found.position == 6


def test_looking_ahead_changes_no_seed_of_what_comes() -> None:
    looking, plain = window(), window(reach=0)
    seeds = []
    for _ in range(4):
        looking.following()
        seeds += [batch.seed for batch in looking.take(2)]
    assert seeds == [batch.seed for batch in plain.take(8)]
    assert len(set(seeds)) == 8
    assert seeds != [batch.seed for batch in window(seed=8).take(8)]


@pytest.mark.parametrize("count", [1, 2])
def test_the_others_are_those_that_follow(count: int) -> None:
    found = window()
    for position in range(0, 12, count):
        taken = found.take(count)
        assert numbers(found.others(taken)) == [position + count + i for i in range(3)]


def test_where_examples_come_again_soon_the_others_are_those_just_before() -> None:
    """Four micro-batches an epoch, of which two are taken: the next but two are the taken ones again."""
    found = window(rows=8)
    found.take(2)
    taken = found.take(2)
    assert numbers(taken) == [2, 3]
    assert numbers(found.following()) == [0, 1, 2]
    assert numbers(found.others(taken)) == [0, 1, 1]  # the third is the nearest of those behind


def test_with_none_apart_it_is_the_one_that_shares_least_and_that_is_said_once() -> None:
    data = DataLoader([0, 1, 2], batch_size=SIZE)  # type: ignore[arg-type]
    stream = ForgetStream(data, order=lambda epoch: [0, 1, 1, 0, 2, 1])
    found = BatchWindow(stream, (0,), lambda batch: [str(row) for row in batch.tolist()], 2)
    taken = found.take(1)
    with pytest.warns(UserWarning, match="Found none among the 2 micro-batches around.*the 1 of a step"):
        (least,) = found.others(taken)
    assert least.batch.tolist() == [2, 1]
    assert found.others(taken) == [least]  # a second warning would be an error


@pytest.mark.parametrize("position", [0, 1, 2, 5, 13, 24])
@pytest.mark.parametrize("count", [1, 2])
def test_after_a_seek_all_is_as_if_it_had_been_reached_step_by_step(position: int, count: int) -> None:
    """Also where the examples just before are needed, and from a window that was elsewhere."""
    there, sought = window(rows=8), window(rows=8)
    sought.take(3)
    sought.following()
    for _ in range(position):
        there.take(1)
    sought.seek(position)
    assert sought.position == there.position == position
    for _ in range(3):
        taken, again = there.take(count), sought.take(count)
        assert [(b.seed, b.batch.tolist()) for b in taken] == [(b.seed, b.batch.tolist()) for b in again]
        assert numbers(there.others(taken)) == numbers(sought.others(again))
        assert numbers(there.following()) == numbers(sought.following())
