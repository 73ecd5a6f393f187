"""Small made-up studies of one attack: levels in, a report out."""

from typing import Any

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import RobustnessReport, assess

WHO = [f"author {index // 2}" for index in range(24)]
WIGGLE = [0.01 * (index % 3 - 1) for index in range(24)]


def observed(level: float, step: int, split: str = "forget", **other: Any) -> Observation:
    scores = [level + wiggle for wiggle in WIGGLE]
    shared = {"metric": "probability", "bounds": (0.0, 1.0), "entities": WHO, **other}
    return Observation(split=split, value=sum(scores) / len(scores), step=step, scores=scores, **shared)


def attacked(
    name: str, back: tuple[float, ...], left: float = 0.8, step: int = 9, family: str = "relearn", **other: Any
) -> list[Observation]:
    """An attack whose points, 1 and on, bring the forget level to ``back`` and leave the retain level ``left``."""
    made = []
    for point, level in enumerate(back, start=1):
        how = {"attack": name, "family": family, "point": point, "unit": "step", **other}
        made += [observed(level, step, **how), observed(left, step, "retain", **how)]
    return made


def study(
    forget: tuple[float, float] = (0.8, 0.1),
    retain: tuple[float, float] = (0.8, 0.8),
    back: tuple[float, ...] = (0.4,),
    left: float = 0.8,
    step: int = 9,
    at: int = 9,
    family: str = "relearn",
) -> list[Observation]:
    """Original, unlearned, and an attack on the latter."""
    before = [observed(forget[0], 0, subject="original"), observed(retain[0], 0, "retain", subject="original")]
    after = [observed(forget[1], step), observed(retain[1], step, "retain")]
    return [*before, *after, *attacked("relearn" if family == "relearn" else family, back, left, at, family)]


def specificity(level: float, attack: str, point: int = 1, step: int = 9) -> Observation:
    return observed(level, step, metric="specificity", attack=attack, point=point, unit="step")


def control(back: float, name: str = "relearn", unattacked: float = 0.1) -> list[Observation]:
    """A model that never knew, and what the attack's only point teaches it."""
    how = {"attack": name, "family": "relearn", "point": 1, "unit": "step"}
    return [observed(unattacked, 0, subject="control"), observed(back, 0, subject="control", **how)]


def report_of(observations: list[Observation], **options: Any) -> RobustnessReport:
    return assess(observations, draws=200, **{"restored": True, **options})


def status(report: RobustnessReport, code: str) -> list[str]:
    return [gate.status for gate in report.gates if gate.code == code]
