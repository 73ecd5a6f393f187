"""A bar for somebody who looks on; elsewhere about one line a minute, however often there is something to say."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from lightning_unlearn import Quantize, Relearn
from lightning_unlearn.auditing._progress import AuditProgress
from lightning_unlearn.forgetting import _forget_loss
from lightning_unlearn.runtime import EachMinute, ProgressBar, ProgressLines, in_minutes, someone_looks_on


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that everything in the room uses which was given none."""
    clock = Clock()
    monkeypatch.setattr(ProgressLines.__init__, "__defaults__", (clock,))
    monkeypatch.setattr(EachMinute.__init__, "__defaults__", (clock,))
    return clock


def written(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, force_jupyter=False, width=100, _environ={})


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 1000), (7.0, 100), (59.0, 20), (61.0, 20), (600.0, 3)])
def test_there_is_at_most_a_line_a_minute_and_one_for_each_that_had_a_step(seconds: float, steps: int) -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lambda line: lines.append((clock.now, line)), clock)
    progress.plan(steps)
    for done in range(1, steps + 1):
        clock.now = done * seconds
        progress.at(done, "Teaching")
    times = [0.0, *(time for time, _ in lines)]
    assert all(60 <= later - earlier < 60 + seconds for earlier, later in pairwise(times))
    assert steps * seconds - times[-1] < 60 + seconds


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_at_a_steady_pace_what_is_left_is_what_will_be_needed(share: float) -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    clock.now = 500.0  # before it is known how much there is to do
    progress.plan(20)
    clock.now += 3000 * share
    progress.at(20 * share, "Teaching")
    assert lines == [f"Teaching: {share:.0%}, about {in_minutes(3000 * (1 - share))} left.".replace("%", " %")]


def test_more_than_was_planned_leaves_no_time_below_none() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    progress.plan(10)
    clock.now = 100.0
    progress.at(12, "Teaching")
    assert lines == ["Teaching: 100 %, about 0 seconds left."]


def test_what_has_no_known_end_is_told_without_a_forecast() -> None:
    clock, lines = Clock(), []
    progress = ProgressLines(lines.append, clock)
    clock.now = 60.0
    progress.at(3, "Reading")
    assert lines == ["Reading."]


@pytest.mark.parametrize("terminal", [True, False])
def test_somebody_looks_on_in_a_terminal(terminal: bool) -> None:
    assert someone_looks_on(written(terminal)) == terminal


def test_a_bar_shows_the_latest_words_and_share() -> None:
    console = written(True)
    with ProgressBar("Teaching", console) as bar:
        bar.plan(4)
        bar.at(3, "Teaching, loss 0.5")
    assert "Teaching, loss 0.5" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "75 %" in console.file.getvalue()  # type: ignore[attr-defined]


def look(progress: AuditProgress, clock: Clock, seconds: float, looks: int) -> None:
    with progress:
        progress.at("unlearned", "none", None, 0)
        clock.now += seconds
        progress.plan([Relearn(steps=4), Quantize(bits=4)], 1, whole=seconds, look=seconds, step=0.0)
        for number in range(looks):
            progress.at("unlearned", "relearn", Relearn(steps=4), number)
            clock.now += seconds


def test_an_audit_says_a_line_a_minute_in_a_file(clock: Clock) -> None:
    console = written(False)
    look(AuditProgress(console=console), clock, seconds=20.0, looks=30)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("About ")
    assert len(lines) == 1 + 30 * 20 // 60
    assert all(line.startswith("unlearned: relearn") for line in lines[1:])


def test_an_audit_that_is_not_to_be_shown_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    look(AuditProgress(shown=False), clock, seconds=60.0, looks=5)
    assert capsys.readouterr() == ("", "")


def test_a_sweep_says_a_line_a_minute_and_changes_no_batch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(_forget_loss, "rank_zero_info", lines.append)
    batches = [object() for _ in range(30)]

    def slow() -> Iterator[Any]:
        for batch in batches:
            clock.now += 20.0
            yield batch

    assert all(a is b for a, b in zip(_forget_loss._told(slow()), batches, strict=True))
    assert len(lines) == 10
    assert "27 batches" in lines[-2]
