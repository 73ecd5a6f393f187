"""Holding Ctrl-C back while weights are not the fit's own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any


def uninterrupted() -> AbstractContextManager[None]:
    """Hold Ctrl-C back until the block is left, but for parts that are :func:`interruptible`.

    Afterwards it goes to whoever handled it before: ``KeyboardInterrupt`` is raised, unless the user has a handler of his
    own. Enter it before anything is changed, and leave it after everything is restored. Outside of the main thread, which
    alone is interrupted, it does nothing.

    Example:
        >>> restored = []
        >>> try:
        ...     with uninterrupted():
        ...         signal.raise_signal(signal.SIGINT)
        ...         restored.append("all")
        ... except KeyboardInterrupt:
        ...     print("interrupted with", restored)
        interrupted with ['all']
    """
    return _Uninterrupted() if _in_main_thread() else nullcontext()


def interruptible() -> AbstractContextManager[None]:
    """Let Ctrl-C through inside :func:`uninterrupted`: once. On the way out of here it is held back again.

    Put it inside of every context that restores something, right around the work that takes long.

    Example:
        >>> restored = []
        >>> try:
        ...     with uninterrupted():
        ...         try:
        ...             with interruptible():
        ...                 signal.raise_signal(signal.SIGINT)
        ...                 print("never reached")
        ...         finally:
        ...             signal.raise_signal(signal.SIGINT)  # a second time
        ...             restored.append("all")
        ... except KeyboardInterrupt:
        ...     print("interrupted with", restored)
        interrupted with ['all']
    """
    return _Interruptible() if _in_main_thread() else nullcontext()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Interrupts:
    """The handler of Ctrl-C while somebody is ``uninterrupted``."""

    def __init__(self) -> None:
        self.held = False
        self._pending = False
        self._previous: Callable[[int, FrameType | None], Any] | None = None

    def install(self) -> bool:
        """Handle Ctrl-C from now on. False if that is done already, or if it would not raise anyway."""
        previous = signal.getsignal(signal.SIGINT)
        # Not callable: ignored (as Lightning does after the first Ctrl-C), the system's own, or unknown to Python.
        if not callable(previous) or previous == self._receive:
            return False
        self._pending, self._previous = False, previous
        signal.signal(signal.SIGINT, self._receive)
        return True

    def remove(self) -> None:
        """Give Ctrl-C back to who handled it before, and what was held back with it."""
        signal.signal(signal.SIGINT, self._previous)
        if self._pending:
            self._pending = False
            signal.raise_signal(signal.SIGINT)

    def deliver(self) -> None:
        """Pass on what was held back, if nothing is held back any more."""
        if self._pending and not self.held:
            self._receive(signal.SIGINT, None)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.held or self._previous is None:
            self._pending = True
            return
        # Set here, before anything is raised: on its way out the exception meets those who restore, and a second Ctrl-C must
        # find no line between them where it could be raised.
        self.held, self._pending = True, False
        self._previous(signum, frame)
        self.held = False  # the user's handler did not raise: the work goes on


_INTERRUPTS = _Interrupts()


class _Uninterrupted:
    # Classes, not generators: a signal may arrive on any line of `contextlib`, too.
    def __enter__(self) -> None:
        self._before, _INTERRUPTS.held = _INTERRUPTS.held, True
        self._outermost = _INTERRUPTS.install()

    def __exit__(self, *exception: object) -> None:
        if self._outermost:
            _INTERRUPTS.remove()
        _INTERRUPTS.held = self._before
        _INTERRUPTS.deliver()


class _Interruptible:
    def __enter__(self) -> None:
        self._before, _INTERRUPTS.held = _INTERRUPTS.held, False
        _INTERRUPTS.deliver()

    def __exit__(self, *exception: object) -> None:
        _INTERRUPTS.held = self._before
