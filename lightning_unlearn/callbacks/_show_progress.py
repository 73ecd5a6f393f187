from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from lightning_unlearn.checks import RecoveryCheck, TimeLeft, shown_worst
from lightning_unlearn.engine import callbacks_of, has_seen_bar, tell
from lightning_unlearn.observation import NOT_ATTACKED
from lightning_unlearn.runtime import EachMinute, in_minutes

_Figures = dict[str, Any]


class ShowProgress(pl.Callback):
    """Show how far a fit is, with what unlearning is about, and how long it will still take, its checks included.

    In a terminal or a notebook two figures join the trainer's own progress bar, whichever it is (``TQDMProgressBar``,
    ``RichProgressBar`` or one of yours): ``recovery``, the ``recovery/worst`` of the last check, and ``left``. What
    :class:`Unlearn` logs for the bar, ``unlearn/forget`` and ``unlearn/retain``, is there already. Where nobody sees a bar,
    as in a log file, the same is one line a minute, in Lightning's log. So is what a check is at, which no bar tells: of a
    long check also in a terminal, above the bar.

    The forecast counts the steps at the pace of the steps so far, and each planned check at what the checks so far took.
    It is none where the fit has no planned end. Nothing of the fit changes: not its bar, its logs nor its values.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_unlearn import NPO, RecoveryCheck, ShowProgress, Unlearn
        >>> trainer = Trainer(callbacks=[Unlearn(NPO()), RecoveryCheck(), ShowProgress()], logger=False)
    """

    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._left: TimeLeft | None = None
        self._checks: list[RecoveryCheck] = []
        self._bar: Any = None
        self._logged: _Figures = {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Join the bar, and have the checks say what they are at."""
        self._left, self._minutes = TimeLeft(trainer, self._clock), EachMinute(self._clock)
        self._checks = callbacks_of(trainer, RecoveryCheck)
        for check in self._checks:
            check.watch = partial(self._on_look, trainer)
        self._bar = trainer.progress_bar_callback
        if self._bar is not None:
            self._own_figures = self._bar.__dict__.get("get_metrics")
            self._bar.get_metrics = partial(self._joined, self._bar.get_metrics)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forecast anew; say it, if nobody sees a bar and a minute is over."""
        assert self._left is not None
        self._left.after_step(trainer.global_step)
        # Now, of the step: at the end of an epoch, to ask for them is collective, and ranks have minutes of their own.
        self._logged = dict(trainer.progress_bar_metrics)
        if self._minutes.is_over() and not has_seen_bar(trainer):
            tell(trainer, self._line(trainer))

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the bar and the checks as they were."""
        for check in self._checks:
            del check.watch
        if self._bar is not None:
            del self._bar.get_metrics
            if self._own_figures is not None:
                self._bar.get_metrics = self._own_figures
        self._checks, self._bar, self._logged = [], None, {}

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As in :meth:`teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def figures(self) -> dict[str, str]:
        """What joins the bar now: ``recovery`` and ``left``, as far as they are known."""
        worst = shown_worst([check.last_look for check in self._checks])
        left = None if self._left is None else self._left.now()
        shown = {} if worst is None else {"recovery": f"{worst:.0%}".replace("%", " %")}
        return shown if left is None else {**shown, "left": in_minutes(left)}

    def _joined(self, theirs: Callable[..., _Figures], *args: Any, **kwargs: Any) -> _Figures:
        return {**theirs(*args, **kwargs), **self.figures()}

    def _on_look(self, trainer: pl.Trainer, attack: str, point: float) -> None:
        if self._minutes.is_over():
            where = "without an attack" if attack == NOT_ATTACKED else f"attack `{attack}` at {point:g}"
            tell(trainer, f"{self._line(trainer)} A check: {where}.")

    def _line(self, trainer: pl.Trainer) -> str:
        total = self._left.total if self._left is not None else None
        of = "" if total is None else f" of {total}"
        logged = {_words(name): f"{float(v):.3f}" for name, v in self._logged.items()}
        figures = self.figures()
        left = f"; about {figures.pop('left')} left" if "left" in figures else ""
        shown = ", ".join(f"{name} {value}" for name, value in {**logged, **figures}.items())
        return f"Step {trainer.global_step}{of}{': ' if shown else ''}{shown}{left}."


def _words(name: str) -> str:
    is_loss = name in ("unlearn/forget", "unlearn/retain")
    return name.removeprefix("unlearn/") + (" loss" if is_loss else "")
