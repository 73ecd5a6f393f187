"""The verdict table in words, for both the page and the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_unlearn.observation import Failure
from lightning_unlearn.report.render._leading import standing_failures
from lightning_unlearn.report.schema import DEPLOYMENTS, Interval, Level, Recovery, RobustnessReport
from lightning_unlearn.report.schema._words import (
    level_words,
    number,
    percent,
    point_words,
    price_words,
    recovery_words,
)


@dataclass(frozen=True)
class Cell:
    """One number of the table, in words.

    Args:
        words: The number, with its interval.
        bar: The recovery to draw below it, if it is one.
        more: Smaller lines below it.
    """

    words: str
    bar: Interval | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One model in the table.

    Args:
        who: The model: original, unlearned, control, or an attack.
        where: The point of the attack and whether it is a deployment or an adversary's, or the step of the run.
        cells: One for each column of the table.
        gate: Whether its number is a verdict.
        reasons: Why its numbers are grey; none if they are a verdict.
    """

    who: str
    where: str
    cells: tuple[Cell, ...]
    gate: Cell = Cell("")
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """What the table shows, beside the model and its gates.

    Args:
        splits: Names of the examples, forget and retain first.
        controlled: Whether any attack was tried on a control too.
    """

    splits: tuple[str, ...]
    controlled: bool

    @property
    def names(self) -> list[str]:
        """The heads of the columns."""
        return [*self.splits, "recovery", *(["beyond control"] if self.controlled else []), "price"]

    def of_recovery(self, recovery: Recovery) -> Row:
        """One attack at one point."""
        levels = {"forget": recovery.forget, "retain": recovery.retain, **recovery.others}
        known: tuple[str, ...] = () if recovery.kappa is None else (f"still known: {percent(recovery.kappa)}",)
        if (q_value := getattr(recovery, "q_value", None)) is not None:
            known += (f"q-value {number(q_value)}",)
        cells = [Cell(level_words(levels.get(split))) for split in self.splits]
        cells.append(Cell(recovery_words(recovery.rho), recovery.rho, known))
        if self.controlled:
            adjusted = recovery.adjusted
            cells.append(Cell("no control") if adjusted is None else Cell(recovery_words(adjusted), adjusted))
        cells.append(Cell(price_words(recovery.price)))
        who = "deployment" if recovery.is_deployment else "adversary"
        where = f"{point_words(recovery)} · {who}"
        return Row(recovery.attack, where, tuple(cells), _gate(recovery), tuple(recovery.reasons))

    def of_failure(self, failure: Failure) -> Row:
        """An attack that failed before it could be measured, or an audit that failed without an attack."""
        kind = "deployment" if failure.family in DEPLOYMENTS else "adversary"
        where = kind if failure.attacked else f"step {failure.step}"
        cells = tuple(Cell("-") for _ in self.names)
        return Row(failure.attack if failure.attacked else failure.audit, where, cells, NOT_SHOWN, (failure.words,))

    def of_model(self, levels: Sequence[Level], metric: str, model: str) -> Row | None:
        """A model without an attack; None if it was not observed."""
        own_levels = [level for level in levels if (level.metric, level.model, level.layer) == (metric, model, "")]
        if not own_levels:
            return None
        cells = [Cell(level_words(level_of(levels, metric, model, split))) for split in self.splits]
        cells.append(_ENDS_OF_SCALE.get(model, Cell("")))
        cells += [Cell("")] * (len(self.names) - len(cells))  # no price, and nothing beyond a control
        return Row(model, f"step {own_levels[0].step}", tuple(cells))


def columns_of(report: RobustnessReport) -> Columns:
    """The columns for which a report has numbers."""
    # What is asked of weights alone is on a split without questions, and no column of knowledge.
    of_knowledge = {level.metric for level in report.levels if level.split == "forget"}
    shown = [level for level in report.levels if level.metric in of_knowledge and not level.layer]
    splits = dict.fromkeys(level.split for level in shown)
    further = [split for split in splits if split not in ("forget", "retain")]
    return Columns(("forget", "retain", *further), any(r.adjusted is not None for r in report.recoveries))


def model_rows(report: RobustnessReport, metric: str) -> Iterator[Row]:
    """Original, unlearned and control model, on one metric."""
    columns = columns_of(report)
    for model in ("original", "unlearned", "control"):
        row = columns.of_model(report.levels, metric, model)
        if row is not None:
            yield row


def verdict_rows(report: RobustnessReport, metric: str) -> list[Row]:
    """The models, then the worst point of each attack, adversaries first, on one metric."""
    worst = [recovery for recovery in report.recoveries if recovery.metric == metric and recovery.worst]
    ordered = sorted(worst, key=lambda recovery: recovery.is_deployment)  # stable: otherwise in the order they ran
    return [*model_rows(report, metric), *map(columns_of(report).of_recovery, ordered), *_failed_rows(report, metric)]


def every_row(report: RobustnessReport, metric: str) -> list[Row]:
    """The models, then every point of every attack, on one metric."""
    recoveries = [recovery for recovery in report.recoveries if recovery.metric == metric]
    return [
        *model_rows(report, metric),
        *map(columns_of(report).of_recovery, recoveries),
        *_failed_rows(report, metric),
    ]


def _failed_rows(report: RobustnessReport, metric: str) -> Iterator[Row]:
    """What failed on the final model and has no row of its own: of an attack that was measured at a point, that is grey."""
    measured = {recovery.attack for recovery in report.recoveries if recovery.metric == metric}
    for failure in standing_failures(report):
        if failure.attack not in measured:
            yield columns_of(report).of_failure(failure)


def level_of(levels: Sequence[Level], metric: str, model: str, split: str) -> Interval | None:
    """The level of a model without an attack, at its output; None if it was not measured."""
    wanted = (metric, model, split, "")
    found = (level.interval for level in levels if (level.metric, level.model, level.split, level.layer) == wanted)
    return next(found, None)


NOT_SHOWN = Cell("not shown")
"""The verdict on what failed."""

BY_DEFINITION = "by definition"
"""Why the original has recovered everything, and the unlearned model nothing."""

_ENDS_OF_SCALE = {
    "original": Cell("100 %", more=(BY_DEFINITION,)),
    "unlearned": Cell("0 %", more=(BY_DEFINITION,)),
}


def _gate(recovery: Recovery) -> Cell:
    specificity = recovery.specificity
    more = () if specificity is None else (f"specificity {level_words(specificity)}",)
    missed = "not specific" if recovery.is_unspecific else "not a verdict"
    # A failed attack might have brought back more at a point that it did not reach.
    missed = NOT_SHOWN.words if recovery.is_incomplete else missed
    return Cell("passed" if recovery.is_verdict else missed, more=more)
