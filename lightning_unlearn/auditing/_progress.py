from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from lightning_unlearn.attacks import Attack
from lightning_unlearn.observation import Subject, strength


class Progress:
    """Shows what an audit is at, how much is done, and about how long it will take.

    The first look is timed, and what is said is about all that is left after it.

    Args:
        shown: Whether to show anything.
        console: Where to.
    """

    def __init__(self, *, shown: bool = True, console: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, disable=not shown, console=console)
        self._shown = shown
        self._task = self._bar.add_task("the first look", total=None)
        self._whole = self._look = self._step = 0.0
        self._reached: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def plan(self, attacks: Sequence[Attack], looks: int, *, whole: float, look: float, step: float) -> None:
        """Say what is left to do, and about how long it will take.

        Args:
            attacks: Each attack on each model.
            looks: At how many models without an attack.
            whole: Seconds that one run of all audits takes.
            look: Seconds that one run of the audits takes that are repeated at each point of each attack.
            step: Seconds that one training step of an attacker takes.
        """
        self._whole, self._look, self._step = whole, look, step
        planned = [attack.planned() for attack in attacks]
        points, steps = (sum(each) for each in zip(*planned, strict=True)) if planned else (0, 0)
        seconds = looks * whole + points * look + steps * step
        self._bar.update(self._task, total=seconds)
        if self._shown:
            words = (
                f"About {duration(seconds)}: {len(attacks)} attacks, {looks + points} looks, {steps} training steps."
            )
            self._bar.console.print(words, highlight=False)

    def at(self, subject: Subject, attack: str, of: Attack | None, point: float) -> None:
        """The next look is at ``subject``, at ``point`` of ``attack``."""
        where = attack if of is None else f"{attack}, {strength(point, of.unit)}"
        advance = self._whole if of is None else self._look
        self._bar.update(self._task, description=f"{subject}: {where}", advance=advance)
        # Points of an attack ascend: the training steps since its last point were taken just now.
        steps = point if of is not None and of.unit == "step" else 0.0
        before = self._reached.get((subject, attack), 0.0)
        self._reached[subject, attack] = steps
        self._bar.advance(self._task, self._step * max(0.0, steps - before))


def duration(seconds: float) -> str:
    """A duration in words, rounded to what a forecast is good for.

    Example:
        >>> duration(40), duration(400), duration(9000)
        ('1 minute', '7 minutes', '2.5 hours')
    """
    minutes = max(1, round(seconds / 60))
    if minutes >= 90:
        return f"{seconds / 3600:.1f} hours"
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
