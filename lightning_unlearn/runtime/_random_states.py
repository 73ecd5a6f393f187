from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from ``seed``; afterwards torch (on all devices), numpy and Python are where they were.

    Args:
        seed: In ``[0, 2**63)``.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(2)
        >>> with seeded(7):
        ...     again = torch.rand(2)
        >>> torch.equal(first, again)
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices):
        # Not `torch.manual_seed`: before the first use of CUDA, it would leave a seed behind for then.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
