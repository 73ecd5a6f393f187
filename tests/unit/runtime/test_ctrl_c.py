"""Ctrl-C is held back where something is not restored yet, and let through, once, where work takes long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lightning_unlearn.runtime import interruptible, uninterrupted


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN, quietly)
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


calls: list[int] = []


def quietly(signum: int, frame: Any) -> None:
    calls.append(signum)


def test_held_back_and_raised_when_the_block_is_left() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            press()
            done.append(1)
        done.append(2)
    assert done == [1]


def test_let_through_where_it_may_be_and_held_back_on_the_way_out() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        try:
            with interruptible():
                press()
                done.append("after")
        finally:
            press()
            done.append("restored")
    assert done == ["restored"]


def test_one_that_came_before_is_let_through_at_the_first_place_where_it_may_be() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        done.append("entered")
        with interruptible():
            done.append("work")
    assert done == ["entered"]


def test_blocks_inside_each_other_hold_until_the_outermost_is_left() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            with uninterrupted():
                press()
            done.append("inner")
        done.append("outer")
    assert done == ["inner"]


def test_an_inner_block_inside_of_interruptible_work_passes_it_on_when_it_is_left() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        with interruptible():
            with uninterrupted():
                press()
                done.append("inner")
            done.append("work")
    assert done == ["inner"]


def test_other_exceptions_go_through() -> None:
    with pytest.raises(ValueError, match="mine"), uninterrupted(), interruptible():
        raise ValueError("mine")


def test_a_handler_of_the_users_that_raises_nothing_is_called_and_the_work_goes_on() -> None:
    signal.signal(signal.SIGINT, quietly)
    calls.clear()
    seen = []
    with uninterrupted():
        press()
        seen.append(len(calls))
        with interruptible():
            seen.append(len(calls))
            press()
            seen.append(len(calls))
        press()
        seen.append(len(calls))
    assert [*seen, len(calls)] == [0, 1, 2, 2, 3]


def test_where_it_is_ignored_it_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted(), interruptible():
        press()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_nothing() -> None:
    seen: list[Any] = []

    def work() -> None:
        with uninterrupted(), interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_at_every_line_of_a_context_that_restores() -> None:
    """The oracle: without `uninterrupted` some line of `contextlib` leaves the value changed."""
    import sys

    value = [0]

    @contextmanager
    def changed() -> Iterator[None]:
        value[0] = 1
        try:
            yield
        finally:
            value[0] = 0

    def held() -> None:
        with uninterrupted(), changed(), interruptible():
            value.append(2)

    def bare() -> None:
        with changed():
            value.append(2)

    def left_changed(work: Any) -> list[int]:
        kept, left = [], []
        for n in range(1, 60):
            seen = [0]

            def trace(frame: Any, event: str, argument: Any, seen: list[int] = seen, n: int = n) -> Any:
                if frame.f_code.co_name != "_receive":
                    seen[0] += 1
                    if seen[0] == n:
                        press()
                return trace

            try:
                sys.settrace(trace)
                work()
            except KeyboardInterrupt as interrupt:
                kept.append(interrupt)  # a traceback holds its frames, as a fit does that is being shut down
                if value[0]:
                    left.append(n)
            finally:
                sys.settrace(None)
            value[:] = [0]
        assert len(kept) > 20
        return left

    assert left_changed(held) == []
    assert left_changed(bare)
