"""Killed at twenty random moments and started again each time, a sequence ends as one that ran through."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _request_sequences import files_of, ledger_of, plain_fit, requests, sequence, tiny_with_adapter
from torch import nn
from typing_extensions import override

from lightning_unlearn.requests import AdaptersAlone, Job, Keeping, RequestFit, WholeWeights

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


class Nudge(RequestFit):
    """Draws an adapter's second factors by the seed of the request: without a trainer, a killed run costs little."""

    @override
    def network(self) -> nn.Module:
        return tiny_with_adapter()

    @override
    @torch.no_grad()
    def forget_(self, job: Job) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(job.seed)
        for name, param in job.network.named_parameters():
            if "lora_B" in name:
                param.copy_(torch.randn(param.shape, generator=generator) / 10)
        return {"seed": job.seed}

    @override
    def settings(self) -> dict[str, Any]:
        return {"fit": "Nudge"}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # each of the twenty starts again; a second for each request, on a core of its own
@pytest.mark.parametrize(
    ("fit", "keeping"), [(plain_fit(), WholeWeights()), (Nudge(), AdaptersAlone())], ids=["trainer", "adapters"]
)
def test_killed_at_twenty_random_moments_it_ends_as_one_that_ran_through(
    fit: RequestFit, keeping: Keeping, tmp_path: Path
) -> None:
    def run(folder: Path) -> object:
        return sequence(folder, fit, keeping=keeping).run(requests(3))

    run(tmp_path / "whole")  # here, so that those who follow have everything imported
    expected, weights = ledger_of(tmp_path / "whole"), files_of(tmp_path / "whole")
    assert len(expected.splitlines()) == 4
    began = time.monotonic()
    assert os.waitpid(started(lambda: run(tmp_path / "again")), 0)[1] == 0
    seconds = time.monotonic() - began
    assert ledger_of(tmp_path / "again") == expected

    draw, kills, rounds, places = random.Random(0), 0, 0, set()
    while kills < KILLS:
        folder = tmp_path / f"killed-{rounds}"
        for _ in range(4 * KILLS):
            if kills >= KILLS or not killed_after(started(lambda at=folder: run(at)), draw.uniform(0, seconds)):
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
