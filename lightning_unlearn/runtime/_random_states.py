"""The random generators of Python, numpy and torch, on all devices in use; and seeds that depend on given numbers only."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

_SEEDS = 1 << 32
"""numpy takes seeds below this number."""


def hash_of(*numbers: int) -> int:
    """A 63-bit number that depends on each of ``numbers`` and on their order.

    Example:
        >>> hash_of(1, 2) != hash_of(2, 1)
        True
    """
    digest = blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def remember_random_states() -> Callable[[], None]:
    """Remember the state of every global random generator. Returns what puts all of them back.

    Example:
        >>> put_back = remember_random_states()
        >>> first = torch.rand(2)
        >>> put_back()
        >>> torch.equal(torch.rand(2), first)
        True
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = [(backend.set_rng_state_all, backend.get_rng_state_all()) for backend in _accelerators()]
    if torch.backends.mps.is_available():
        devices.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for put, state in devices:
            put(state)

    return put_back


def random_states_now() -> list[bytes]:
    """The state of every generator of torch, to see whether something has drawn from them.

    Example:
        >>> before = random_states_now()
        >>> _ = torch.rand(2)
        >>> random_states_now() == before
        False
    """
    devices = [state for backend in _accelerators() for state in backend.get_rng_state_all()]
    return [state.numpy().tobytes() for state in (torch.get_rng_state(), *devices)]


def seed_random_states(seed: int) -> None:
    """Seed every global random generator. The caller should have remembered their states."""
    random.seed(seed)
    np.random.seed(seed % _SEEDS)
    # Not `torch.manual_seed`: for a device that has not started yet it would leave a seed for its start, which nobody
    # could take back.
    torch.default_generator.manual_seed(seed)
    for backend in _accelerators():
        backend.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that depend on ``seed`` alone. Afterwards all generators go on as if nothing had been drawn.

    Example:
        >>> with seeded(3):
        ...     first = torch.rand(2)
        >>> with seeded(3):
        ...     torch.equal(torch.rand(2), first)
        True
    """
    put_back = remember_random_states()
    seed_random_states(seed)
    try:
        yield
    finally:
        put_back()


def _accelerators() -> list[Any]:
    # One that has not started has drawn nothing. Asked for its state, it would start, which takes seconds and memory.
    return [backend for backend in (torch.cuda, torch.xpu) if backend.is_available() and backend.is_initialized()]
