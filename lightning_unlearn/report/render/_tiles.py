"""Four numbers, large: what was forgotten, what was kept, and what comes back."""

from dataclasses import dataclass

from lightning_unlearn.report.render._rows import level_of
from lightning_unlearn.report.schema import Recovery, RobustnessReport
from lightning_unlearn.report.schema._words import attack_words, name, number, percent, price_words, recovery_words


@dataclass(frozen=True)
class Tile:
    """One number with its words.

    Args:
        title: What it is.
        value: The number.
        lines: What it is of, and what stands beside it.
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
        _returned("What an adversary brings back", report, "worst"),
        _returned("What deployment brings back", report, "worst_deployment"),
    ]


def _change(title: str, report: RobustnessReport, metric: str, split: str, *, blocking: str) -> Tile:
    before, after = (level_of(report.levels, metric, model, split) for model in ("original", "unlearned"))
    change = f"{number(before.value if before else None)} → {number(after.value if after else None)}"
    grey = any(gate.blocks for gate in report.gates if gate.code == blocking and gate.metric in ("", metric))
    return Tile(title, change, (f"{name(metric)} on the {split} set, original → unlearned",), grey=grey)


def _returned(title: str, report: RobustnessReport, which: str) -> Tile:
    worst = _at(report, report.summary[which])
    if worst is None:
        return Tile(title, "no verdict", ("nothing was tried, or nothing passes its gates",), grey=True)
    lines = (*_recovered(worst), f"{attack_words(worst)}; price: {price_words(worst.price)}")
    return Tile(title, percent(worst.shown.value), lines)


def _recovered(worst: Recovery) -> tuple[str, ...]:
    if worst.adjusted is None:
        return (f"of what was removed: {recovery_words(worst.rho)}; no control",)
    beyond = f"of what was removed, beyond the control: {recovery_words(worst.adjusted)}"
    return beyond, f"control not taken off: {recovery_words(worst.rho)}"


def _at(report: RobustnessReport, place: dict[str, object] | None) -> Recovery | None:
    if place is None:
        return None
    wanted = (report.summary["headline_metric"], place["attack"], place["point"])
    return next(r for r in report.recoveries if (r.metric, r.attack, r.point) == wanted)
