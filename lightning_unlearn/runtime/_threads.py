"""Many small operations on one tensor after another, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def map_in_threads(function: Callable[[T], R], items: Iterable[T], device: torch.device) -> list[R]:
    """``[function(item) for item in items]`` without autograd, on the CPU several items at once, each on one thread.

    Operations on blocks that fit a cache are so short that several threads for each take longer than one: waking them
    costs more than they save. Other devices run one operation after the other anyway.

    Args:
        function: Must not change what another call reads.
        items: What it is called with. All are taken before the first call ends.
        device: Where the tensors are.

    Example:
        >>> map_in_threads(lambda t: float(t.sum()), [torch.ones(2), torch.ones(3)], torch.device("cpu"))
        [2.0, 3.0]
    """
    threads, items = torch.get_num_threads(), list(items)
    if len(items) < 2 or device.type != "cpu" or threads == 1 or not _threads_can_be_set():
        with torch.no_grad():
            return list(map(function, items))
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(torch.no_grad()(function), items))  # which is a setting of each thread
    finally:
        torch.set_num_threads(threads)


@cache
def _threads_can_be_set() -> bool:
    """Only OpenMP lets their number change while a program runs."""
    return "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
