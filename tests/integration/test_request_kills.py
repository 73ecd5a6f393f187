"""Killed at twenty random moments and started again each time, a sequence ends as one that ran through."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _request_sequences import files_of, ledger_of, plain_fit, requests, sequence, tiny_with_adapter

from lightning_unlearn.requests import AdaptersAlone, Keeping, WholeWeights

KILLS = 20


def started(work: Callable[[], object]) -> int:
    """A process of its own that does the work, and takes nothing of ours with it when it is killed."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def killed_after(process: int, seconds: float) -> bool:
    """Whether it was killed by us: it may have come to its end before."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("keeping", [WholeWeights(), AdaptersAlone()], ids=repr)
def test_killed_at_twenty_random_moments_it_ends_as_one_that_ran_through(keeping: Keeping, tmp_path: Path) -> None:
    def run(folder: Path) -> object:
        return sequence(folder, plain_fit(tiny_with_adapter), keeping=keeping).run(requests(4))

    began = time.monotonic()
    assert os.waitpid(started(lambda: run(tmp_path / "whole")), 0)[1] == 0
    each = (time.monotonic() - began) / 4
    expected, weights = ledger_of(tmp_path / "whole"), files_of(tmp_path / "whole")
    assert len(expected.splitlines()) == 5

    draw, kills, rounds, places = random.Random(0), 0, 0, set()
    while kills < KILLS:
        folder = tmp_path / f"killed-{rounds}"
        for _ in range(4 * KILLS):
            if kills >= KILLS or not killed_after(started(lambda at=folder: run(at)), draw.uniform(0, 2.5 * each)):
                break
            kills += 1
            so_far = ledger_of(folder) if (folder / "ledger.jsonl").exists() else b""
            places.add(so_far.count(b"\n"))
            assert expected.startswith(so_far)  # nothing but what the other has, a line in the making included
        assert os.waitpid(started(lambda at=folder: run(at)), 0)[1] == 0
        assert ledger_of(folder) == expected
        assert files_of(folder) == weights
        rounds += 1
    assert kills == KILLS
    assert len(places) > 1  # not all before the first entry
