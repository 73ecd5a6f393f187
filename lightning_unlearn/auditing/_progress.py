from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console

from lightning_unlearn.attacks import Attack
from lightning_unlearn.observation import Subject, strength
from lightning_unlearn.runtime import Progress, ProgressBar, ProgressLines, in_minutes, someone_looks_on

_FIRST = "the first look"


class AuditProgress:
    """Shows what an audit is at, how much is done, and about how long it will take.

    The first look is timed, and what is said is about all that is left after it. In a terminal it is a bar, elsewhere about
    one line a minute.

    Args:
        shown: Whether to show anything.
        console: Where to. Defaults to standard output.
    """

    def __init__(self, *, shown: bool = True, console: Console | None = None) -> None:
        self._console = Console(quiet=not shown) if console is None else console
        bar = shown and someone_looks_on(self._console)
        self._progress: Progress = ProgressBar(_FIRST, self._console) if bar else ProgressLines(self._print)
        self._whole = self._look = self._step = self._done = 0.0
        self._reached: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.__exit__(kind, error, at)

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
        self._progress.plan(seconds)
        self._print(
            f"About {in_minutes(seconds)}: {len(attacks)} attacks, {looks + points} looks, {steps} training steps."
        )

    def at(self, subject: Subject, attack: str, of: Attack | None, point: float) -> None:
        """The next look is at ``subject``, at ``point`` of ``attack``."""
        where = attack if of is None else f"{attack}, {strength(point, of.unit)}"
        # Points of an attack ascend: the training steps since its last point were taken just now.
        steps = point if of is not None and of.unit == "step" else 0.0
        before = self._reached.get((subject, attack), 0.0)
        self._reached[subject, attack] = steps
        self._done += (self._whole if of is None else self._look) + self._step * max(0.0, steps - before)
        self._progress.at(self._done, f"{subject}: {where}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
