"""Run a function in real processes with real collectives, in about a second."""

from __future__ import annotations

import io
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp


def run_ranks(function: Callable[[int, int], Any], world_size: int = 2, timeout: float = 120) -> list[Any]:
    """Fork processes that look like torchrun's workers: Lightning then launches nothing itself, whatever the strategy.

    Returns what ``function(rank, world_size)`` returned, by rank. Raises what a rank raised.
    """
    port = _free_port()
    context = mp.get_context("fork")
    queue = context.Queue()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    processes = [context.Process(target=_work, args=(r, world_size, port, function, queue)) for r in range(world_size)]
    for process in processes:
        process.start()
    try:
        received = dict(queue.get(timeout=timeout) for _ in processes)
    finally:
        torch.set_num_threads(threads)
        for process in processes:
            process.join(timeout=10)
            process.kill()
    results = {rank: torch.load(io.BytesIO(blob), weights_only=False) for rank, blob in received.items()}
    for rank in range(world_size):
        if isinstance(results[rank], _Failure):
            raise AssertionError(f"Rank {rank} failed:\n{results[rank].text}")
    return [results[rank] for rank in range(world_size)]


class _Failure:
    def __init__(self, text: str) -> None:
        self.text = text


def _work(rank: int, world_size: int, port: int, function: Callable[[int, int], Any], queue: Any) -> None:
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "GROUP_RANK": 0,
    }
    os.environ.update({k: str(v) for k, v in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    try:
        result = function(rank, world_size)
    except BaseException:
        result = _Failure(traceback.format_exc())
    # As bytes: tensors would travel by shared memory, which is gone when this process is.
    buffer = io.BytesIO()
    torch.save(result, buffer)
    queue.put((rank, buffer.getvalue()))
    queue.close()
    queue.join_thread()
    os._exit(0)


def _free_port() -> int:
    """Pytest-xdist's workers share the ports among them, so that none takes what another is about to use."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = int(s.getsockname()[1])
        if port // 2 % workers == int(worker.removeprefix("gw")):  # halved: Linux gives `bind` odd ports only
            return port
