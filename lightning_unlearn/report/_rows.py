"""The verdict table, as rows of words: the page and the terminal show the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_unlearn.report._schema import Interval, Level, Recovery
from lightning_unlearn.report._words import level_words, percent, point_words, recovery_words

if TYPE_CHECKING:
    from lightning_unlearn.report._report import RobustnessReport


@dataclass(frozen=True)
class Row:
    """One model in the verdict table.

    Args:
        who: The model: original, unlearned, or an attack.
        where: The point of the attack, or the step of the run.
        forget: What it knows of the forget set.
        retain: What it knows of the retain set.
        recovery: What came back.
        reasons: Why its numbers are grey; none if they are a verdict.
        bar: The recovery to draw, if there is one.
        more: Other ways to say what came back.
    """

    who: str
    where: str
    forget: str
    retain: str
    recovery: str
    reasons: tuple[str, ...] = ()
    bar: Interval | None = None
    more: tuple[str, ...] = ()

    @property
    def gate(self) -> str:
        """Whether its number is a verdict."""
        return "not a verdict" if self.reasons else "passed" if self.bar else ""


def verdict_rows(report: RobustnessReport, metric: str) -> list[Row]:
    """Original, unlearned and control model, then the worst point of each attack, on one metric."""
    rows = [_level_row(report.levels, metric, model) for model in ("original", "unlearned", "control")]
    told = [recovery for recovery in report.recoveries if recovery.metric == metric and recovery.worst]
    return [row for row in rows if row is not None] + [recovery_row(recovery) for recovery in told]


def recovery_row(recovery: Recovery) -> Row:
    """One attack at one point."""
    return Row(
        who=recovery.attack,
        where=point_words(recovery),
        forget=level_words(recovery.forget),
        retain=level_words(recovery.retain),
        recovery=recovery_words(recovery.shown),
        reasons=tuple(recovery.reasons),
        bar=recovery.shown,
        more=tuple(_more(recovery)),
    )


def _more(recovery: Recovery) -> Iterator[str]:
    if recovery.adjusted is not None:
        yield f"unadjusted: {recovery_words(recovery.rho)}"
    if recovery.kappa is not None:
        yield f"still known: {percent(recovery.kappa)}"


def level_of(levels: Sequence[Level], metric: str, model: str, split: str) -> Interval | None:
    """What a model that was not attacked knows."""
    wanted = (metric, model, split)
    return next((level.interval for level in levels if (level.metric, level.model, level.split) == wanted), None)


_BY_DEFINITION = {"original": "100 % by definition", "unlearned": "0 % by definition", "control": "-"}


def _level_row(levels: Sequence[Level], metric: str, model: str) -> Row | None:
    forget = level_of(levels, metric, model, "forget")
    if forget is None:
        return None
    retain = level_words(level_of(levels, metric, model, "retain"))
    step = next(level.step for level in levels if (level.metric, level.model) == (metric, model))
    return Row(model, f"step {step}", level_words(forget), retain, _BY_DEFINITION[model])
