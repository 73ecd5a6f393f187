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

    Operations on blocks that fit the cache are short: waking several threads for each costs more time than it saves. Other
    devices run one operation after the other anyway.

    Args:
        function: Called from several threads. It must not change what another call reads.
        items: Its arguments. All are collected before the first call.
        device: The device of the tensors.

    Example:
        >>> map_in_threads(lambda t: float(t.sum()), [torch.ones(2), torch.ones(3)], torch.device("cpu"))
        [2.0, 3.0]
    """
    threads, items = torch.get_num_threads(), list(items)
    if len(items) < 2 or device.type != "cpu" or threads == 1 or not _threads_can_be_set():
        with torch.no_grad():
            return list(map(function, items))
    torch.set_num_threads(1)  # each of our threads works on an item alone
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(torch.no_grad()(function), items))  # the mode of autograd is a setting of each thread
    finally:
        torch.set_num_threads(threads)


@cache
def _threads_can_be_set() -> bool:
    """Whether torch was built with OpenMP, the only backend whose number of threads can change at run time."""
    return "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
