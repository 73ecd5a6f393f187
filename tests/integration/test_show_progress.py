"""What a fit shows while it runs: the figures of unlearning and the time left; and nothing of the fit moves by it."""

from __future__ import annotations

import importlib
import logging
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _modules import CLASSES, SomebodysModule, loader, quiet, same
from _observed_fits import Remembering, int4_check, observed_fit
from torch import nn

from lightning_unlearn import Bounded, GradientAscent, RecoveryCheck, Relearn, ShowProgress, Unlearn, UnlearningModule
from lightning_unlearn.checks import TimeLeft
from lightning_unlearn.engine import _shown
from lightning_unlearn.observation import Cost

pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader.")
PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
BARS = ["TQDMProgressBar", "RichProgressBar"]


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Passing(pl.Callback):
    """So many seconds pass in each step."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += self.seconds


class SlowCheck(RecoveryCheck):
    """So many seconds pass before each look, without and under each attack."""

    def __init__(self, clock: Clock, seconds: float, **kwargs: Any) -> None:
        super().__init__({"relearn": Relearn(steps=2)}, **kwargs)
        self.clock, self.seconds = clock, seconds

    @property
    def watch(self) -> Any:
        return self._passing

    @watch.setter
    def watch(self, watch: Any) -> None:
        self._told = watch

    @watch.deleter
    def watch(self) -> None:
        del self._told

    def _passing(self, attack: str, point: float) -> None:
        self.clock.now += self.seconds
        self._told(attack, point)


class Seen(pl.Callback):
    """What the bar would show after each step."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.figures.append(trainer.progress_bar_callback.get_metrics(trainer, pl_module))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Lightning's log, whichever of its packages was imported last and has it."""
    caplog.set_level(logging.INFO)
    return caplog


def shown(clock: Clock) -> ShowProgress:
    progress = ShowProgress()
    progress._clock = clock
    return progress


def of_steps(log: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in log.messages if line.startswith("Step ")]


def test_a_fit_that_is_shown_is_the_fit_that_is_not() -> None:
    """Weights, what was logged, what callbacks can monitor, and the random numbers after it."""
    results = []
    for further in ([], [shown(Clock())]):
        pl.seed_everything(3, verbose=False)
        logger = Remembering()
        trainer, module = observed_fit(int4_check(), *further, logger=logger, max_epochs=3)
        results.append((module, logger.logged, dict(trainer.callback_metrics), torch.get_rng_state()))
    (a, logged, monitored, state), (b, logged_beside, monitored_beside, state_beside) = results
    assert same(a, b)
    assert logged == logged_beside
    assert monitored.keys() == monitored_beside.keys()
    assert all(torch.equal(monitored[key], monitored_beside[key]) for key in monitored)
    assert torch.equal(state, state_beside)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", BARS)
def test_the_figures_join_every_bar_and_leave_it_as_it_was(package: str, name: str) -> None:
    pytest.importorskip(package)
    bar = getattr(importlib.import_module(f"{package}.callbacks"), name)()
    seen, clock = Seen(), Clock()
    module, trainer_of = UnlearningModule(nn.Linear(8, CLASSES)), importlib.import_module(package).Trainer
    callbacks = [
        Unlearn(Bounded(GradientAscent(), bound=6.0), forget=loader(seed=2, n=12)),
        Passing(clock, 30.0),
        int4_check(),
        shown(clock),
        seen,
        bar,
    ]
    trainer = trainer_of(
        accelerator="cpu",
        callbacks=callbacks,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(seed=1))
    assert all({"unlearn/forget", "unlearn/retain", "left"} <= figures.keys() for figures in seen.figures)
    per_epoch = len(seen.figures) // 2
    assert ["recovery" in figures for figures in seen.figures] == [False] * per_epoch + [True] * per_epoch
    assert seen.figures[-1]["recovery"].endswith(" %")
    assert seen.figures[0]["left"] == "5 minutes"  # eleven of twelve steps of half a minute
    assert "get_metrics" not in vars(bar)
    assert "watch" not in vars(callbacks[2])


@pytest.mark.parametrize(("seconds", "count"), [(3.0, 0), (20.0, 6), (60.0, 18), (200.0, 18)])
def test_without_a_terminal_there_is_a_line_a_minute(seconds: float, count: int, log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    observed_fit(int4_check(), Passing(clock, seconds), shown(clock), max_epochs=3)
    assert len(of_steps(log)) == count


def test_a_line_says_step_figures_and_what_is_left(log: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    observed_fit(int4_check(), Passing(clock, 60.0), shown(clock), max_epochs=3)
    words = of_steps(log)
    assert words[0].startswith("Step 1 of 18: forget ")
    assert ", retain " in words[0]
    assert "recovery" not in words[0]
    assert words[0].endswith("; about 17 minutes left.")
    assert ", recovery " in words[-1]


def test_what_a_long_check_is_at_is_said_above_the_bar_too(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_shown, "someone_looks_on", lambda: True)
    clock = Clock()
    check = SlowCheck(clock, 60.0)
    observed_fit(check, Passing(clock, 60.0), shown(clock), enable_progress_bar=True)
    told = [line for line in capsys.readouterr().out.splitlines() if "A check:" in line]
    assert [line[line.index("A check:") :] for line in told[:2]] == [
        "A check: without an attack.",
        "A check: attack `relearn` at 0.",
    ]
    assert not of_steps(log)


def test_what_was_logged_is_asked_for_in_steps_alone(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch Lightning reduces over ranks what is asked for, and a minute is over on some of them only."""
    in_step: list[bool] = []
    theirs = pl.Trainer.progress_bar_metrics.fget  # type: ignore[attr-defined]

    def asked(trainer: Any) -> Any:
        in_step.append(trainer._logger_connector._first_loop_iter is not None)
        return theirs(trainer)

    monkeypatch.setattr(pl.Trainer, "progress_bar_metrics", property(asked))
    clock = Clock()
    observed_fit(SlowCheck(clock, 60.0), Passing(clock, 60.0), shown(clock))
    assert [line for line in of_steps(log) if "A check:" in line and "forget" in line]
    assert in_step
    assert all(in_step)


def test_a_fit_that_breaks_leaves_bar_and_checks_as_they_were() -> None:
    class Breaks(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("broken")

    check, bar = int4_check(), pl.callbacks.TQDMProgressBar()
    with pytest.raises(RuntimeError, match="broken"):
        observed_fit(check, ShowProgress(), Breaks(), bar, enable_progress_bar=True)
    assert "get_metrics" not in vars(bar)
    assert "watch" not in vars(check)


def test_a_bar_that_has_a_way_of_its_own_gets_it_back() -> None:
    bar = pl.callbacks.TQDMProgressBar()
    bar.get_metrics = own = lambda trainer, module: {"mine": 1}  # type: ignore[method-assign]
    seen = Seen()
    observed_fit(int4_check(), shown(Clock()), seen, bar, enable_progress_bar=True)
    assert seen.figures[0]["mine"] == 1
    assert "left" in seen.figures[0]
    assert bar.get_metrics is own


@pytest.mark.parametrize(
    "every", [{"every_n_epochs": 1}, {"every_n_epochs": 0, "every_n_steps": 4}, {"every_n_epochs": 2}]
)
def test_at_a_steady_pace_the_forecast_is_what_comes(every: dict[str, int]) -> None:
    """Against a fit that is acted out: 2 s a step, 10 s a look, once 25 s of original and control."""
    per_epoch, epochs, step_s, look_s = 6, 5, 2.0, 10.0
    total = per_epoch * epochs
    check, clock = RecoveryCheck({}, **every), Clock()
    trainer: Any = SimpleNamespace(
        global_step=0,
        max_epochs=epochs,
        max_steps=-1,
        num_training_batches=2 * per_epoch - 1,
        accumulate_grad_batches=2,
        callbacks=[check],
    )
    left = TimeLeft(trainer, clock)
    clock.now += 25
    check.costs = [Cost("none", "original", seconds=look_s), Cost("none", "control", seconds=15.0)]
    looks = 0
    events = []
    for step in range(1, total + 1):
        clock.now += step_s
        left.after_step(step)
        events.append((clock.now, left.now()))
        by_epoch = every["every_n_epochs"] and step % (per_epoch * every["every_n_epochs"]) == 0
        by_step = every.get("every_n_steps") and step % every["every_n_steps"] == 0
        if by_epoch or by_step or step == total:
            clock.now += look_s
            looks += 1
            check.costs = [*check.costs[:2], Cost("none", "unlearned", looks, looks * look_s)]
            check._last = SimpleNamespace(step=step, values={})  # type: ignore[assignment]
    assert looks >= 3
    for then, forecast in events:
        assert forecast == pytest.approx(clock.now - then)


def test_a_fit_without_a_planned_end_has_no_forecast() -> None:
    seen = Seen()

    class Ends(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    trainer = quiet(callbacks=[shown(Clock()), seen, Ends()], max_epochs=-1, enable_progress_bar=True)
    trainer.fit(SomebodysModule(), loader(seed=1))
    assert all("left" not in figures for figures in seen.figures)
