"""How far a long piece of work is: a bar in a terminal, about one line a minute elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from typing_extensions import override

SECONDS_BETWEEN_LINES = 60.0


class Progress(ABC):
    """Shows how far a long piece of work is, as a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    @abstractmethod
    def plan(self, total: float) -> None:
        """Say how much there is to do, in any unit."""

    @abstractmethod
    def at(self, done: float, words: str) -> None:
        """Say how much is done, and what comes next."""


class ProgressBar(Progress):
    """A bar, for somebody who looks on.

    Args:
        words: What comes first.
        console: Where to. Defaults to standard output.
    """

    def __init__(self, words: str, console: Console | None = None) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")
        self._bar = Bar(*columns, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task(words, total=None)

    @override
    def __enter__(self) -> Self:
        self._bar.start()
        return self

    @override
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    @override
    def plan(self, total: float) -> None:
        self._bar.update(self._task, total=total)

    @override
    def at(self, done: float, words: str) -> None:
        self._bar.update(self._task, completed=done, description=words)


class ProgressLines(Progress):
    """About one line a minute, for a file that is read later. What takes less than a minute says nothing.

    Args:
        tell: Says a line.
        clock: Seconds since any moment.

    Example:
        >>> minutes = iter([0, 0, 60, 90, 120])
        >>> progress = ProgressLines(print, clock=lambda: next(minutes))
        >>> progress.plan(8)
        >>> for done in (2, 3, 4):
        ...     progress.at(done, "Teaching")
        Teaching: 25 %, about 3 minutes left.
        Teaching: 50 %, about 2 minutes left.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._total: float | None = None
        self._minutes = EachMinute(clock)
        self._planned_at = self._minutes.last

    @override
    def plan(self, total: float) -> None:
        self._total, self._planned_at = total, self._clock()

    @override
    def at(self, done: float, words: str) -> None:
        if self._minutes.is_over():
            self._tell(f"{words}{self._share(done)}.")

    def _share(self, done: float) -> str:
        if not self._total or not done:
            return ""
        done = min(done, self._total)  # what was planned may have been too little
        left = (self._minutes.last - self._planned_at) * (self._total - done) / done
        return f": {done / self._total:.0%}, about {in_minutes(left)} left".replace("%", " %")


class EachMinute:
    """Says when a minute is over since it last said so.

    Args:
        clock: Seconds since any moment.

    Example:
        >>> now = iter([0, 59, 61, 119, 121])
        >>> minutes = EachMinute(lambda: next(now))
        >>> [minutes.is_over() for _ in range(4)]
        [False, True, False, True]
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.last = clock()

    def is_over(self) -> bool:
        """Whether a minute has passed."""
        now = self._clock()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return False
        self.last = now
        return True


def someone_looks_on(console: Console | None = None) -> bool:
    """Whether a bar would be seen: in a terminal or a notebook, not in a file."""
    console = Console() if console is None else console
    return console.is_terminal or console.is_jupyter


def in_minutes(seconds: float) -> str:
    """A duration in words, rounded to what a forecast is good for.

    Example:
        >>> in_minutes(9), in_minutes(40), in_minutes(400), in_minutes(9000)
        ('9 seconds', '1 minute', '7 minutes', '2.5 hours')
    """
    if seconds >= 90 * 60:
        return f"{seconds / 3600:.1f} hours"
    count, unit = (round(seconds), "second") if seconds < 30 else (round(seconds / 60), "minute")
    return f"{count} {unit}{'' if count == 1 else 's'}"
