"""What ranks write down for each other is deleted once all of them have read it."""

from __future__ import annotations

from typing import Any

import pytest
from _ranks import run_ranks
from torch import distributed

from lightning_unlearn.runtime import Agreement, Ended

ROUNDS = 12


def work(error: Exception | None) -> Ended | None:
    """A piece of work, and another one inside of it."""
    with Agreement("The work") as agreement:
        with Agreement("A part of it") as part:
            part.settle(None, "")
        return agreement.settle(error, "")


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, ValueError("no data")], ids=["well", "failed alike"])
def test_a_long_fit_leaves_no_more_in_the_store_than_a_short_one(error: Exception | None) -> None:
    def run(rank: int, world_size: int) -> Any:
        distributed.init_process_group("gloo")
        store: Any = distributed.distributed_c10d._get_default_store()
        found = []
        for _ in range(ROUNDS):
            ended = work(error)
            assert ended == (None if error is None else Ended("ValueError", "no data"))
            distributed.barrier()
            found.append(store.num_keys())
            distributed.barrier()
        return found

    first, second = run_ranks(run, timeout=40)
    assert len(set(first[1:])) == len(set(second[1:])) == 1
