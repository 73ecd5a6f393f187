"""SIGTERM, where several processes work together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import distributed

_asked = threading.Event()


@contextmanager
def termination_held() -> Iterator[None]:
    """Note SIGTERM until the block is left, instead of handling it, if there are several processes.

    Lightning's handler calls a collective, wherever it happens to be. In the middle of other collectives, at another place
    on each rank, all of them would wait forever. An :class:`~lightning_unlearn.runtime.Agreement` tells all ranks of it.
    """
    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if not several or threading.current_thread() is not threading.main_thread() or _asked_is_noted():
        yield
        return
    _asked.clear()
    previous: Any = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    except BaseException:
        _asked.clear()  # the fit ends anyway
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        if _asked.is_set():
            signal.raise_signal(signal.SIGTERM)


def asked_to_end() -> bool:
    """Whether SIGTERM has come to this process meanwhile."""
    return _asked.is_set()


def _asked_is_noted() -> bool:
    return signal.getsignal(signal.SIGTERM) is _note


def _note(signum: int, frame: FrameType | None) -> None:
    _asked.set()
