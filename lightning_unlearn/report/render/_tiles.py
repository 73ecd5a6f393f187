"""Four numbers, large: what was forgotten, what was kept, and what comes back."""

from dataclasses import dataclass
from typing import Literal

from lightning_unlearn.observation import Cost
from lightning_unlearn.report.analysis._headline import failed_attacks
from lightning_unlearn.report.render._leading import leading, recoveries_by, standing_failures
from lightning_unlearn.report.render._rows import level_of
from lightning_unlearn.report.schema import Recovery, RobustnessReport
from lightning_unlearn.report.schema._words import (
    attack_words,
    duration,
    grouped,
    name,
    number,
    percent,
    price_words,
    recovery_words,
)


@dataclass(frozen=True)
class Tile:
    """One number with its words.

    Args:
        title: What it is.
        value: The number.
        lines: Smaller lines below it: what it is measured in, and what belongs to it.
        grey: Whether it is not a verdict.
    """

    title: str
    value: str
    lines: tuple[str, ...]
    grey: bool = False


def tiles(report: RobustnessReport) -> list[Tile]:
    """The tiles of a report."""
    headline, utility = report.summary["headline_metric"], report.summary["utility_metric"]
    return [
        _change("What was forgotten", report, headline, "forget", blocking="G1"),
        _change("What was kept", report, utility, "retain", blocking="G2"),
        _returned("What an adversary brings back", report, "worst", deployment=False),
        _returned("What deployment brings back", report, "worst_deployment", deployment=True),
    ]


def _change(title: str, report: RobustnessReport, metric: str, split: str, *, blocking: str) -> Tile:
    before, after = (level_of(report.levels, metric, model, split) for model in ("original", "unlearned"))
    change = f"{number(before.value if before else None)} → {number(after.value if after else None)}"
    # Grey if the gate on this very change is missed: nothing was removed (G1), or too little was kept (G2).
    grey = any(gate.blocks for gate in report.gates if gate.code == blocking and gate.metric in ("", metric))
    return Tile(title, change, (f"{name(metric)} on the {split} set, original → unlearned",), grey=grey)


def _returned(
    title: str, report: RobustnessReport, which: Literal["worst", "worst_deployment"], *, deployment: bool
) -> Tile:
    found = leading(report, which)
    if failed := failed_attacks(standing_failures(report), deployment=deployment):
        names = ", ".join(dict.fromkeys(failure.attack for failure in failed))
        return Tile(title, "not shown", (f"{names} failed: what it would bring back is not known",), grey=True)
    if found is None:
        return _nothing(title, recoveries_by(report, deployment=deployment))
    worst = found.largest
    cost = f"cost to the rest of the model: {price_words(worst.price)}"
    lines = (*_recovered(worst), f"effort: {_effort(report, worst)}", cost)
    # The number that leads the verdict; the largest one stands below it.
    chosen = ("chosen by one half of the entities, judged by the other",) if found.is_of_two else ()
    return Tile(title, percent(found.number.value), (*chosen, *lines))


def _nothing(title: str, tried: list[Recovery]) -> Tile:
    if not tried:
        return Tile(title, "not tried", ("nothing is known about it",), grey=True)
    if any(recovery.is_incomplete for recovery in tried):
        return Tile(title, "not shown", ("not everything that was to be tried ran to its end",), grey=True)
    if all(recovery.is_unspecific for recovery in tried):
        return Tile(title, "not the answer", ("the right answer is nowhere ahead of others' answers",), grey=True)
    return Tile(title, "no verdict", ("no number passes its gates",), grey=True)


def _recovered(worst: Recovery) -> tuple[str, ...]:
    if worst.adjusted is None:
        return (f"of what was removed: {recovery_words(worst.rho)}; no control",)
    beyond = f"of what was removed, beyond the control: {recovery_words(worst.adjusted)}"
    return beyond, f"with what the attack teaches anybody: {recovery_words(worst.rho)}"


def _effort(report: RobustnessReport, worst: Recovery) -> str:
    """The attack with its strength, and what one run of it, to its last point, took here."""
    spent = [c for c in report.record.costs if (c.attack, c.subject) == (worst.attack, "unlearned") and c.looks]
    return f"{attack_words(worst)}{f' (the whole attack: {_spent(spent[0])})' if spent else ''}"


def _spent(cost: Cost) -> str:
    seen = f", {grouped(cost.tokens / cost.looks)} tokens" if cost.tokens else ""
    return duration(cost.per_look) + seen
