"""What a report is made of: values that survive a round trip through JSON unchanged."""

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "unknown", "warning"]


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Args:
        value: The point estimate.
        low: Lower end; None if there is no finite interval.
        high: Upper end; None if there is no finite interval.
        unbounded: Whether the interval runs through infinity, because the gap it divides by may be 0.
        examples: Number of examples behind it; 0 if there were no scores.
        entities: Number of distinct entities behind it, the ones that were resampled.
    """

    value: float
    low: float | None = None
    high: float | None = None
    unbounded: bool = False
    examples: int = 0
    entities: int = 0


@dataclass(frozen=True)
class Gate:
    """A condition without which a number is not a verdict.

    Args:
        code: ``"G1"`` to ``"G6"``.
        claim: What holds if the gate is passed, in words.
        status: ``fail`` and ``unknown`` turn the numbers in its reach grey; a ``warning`` is shown beside them.
        reason: What was found.
        metric: The metric in its reach; empty for all.
        attack: The attack in its reach; empty for all.
        point: The point in its reach; None for all.
    """

    code: str
    claim: str
    status: Status
    reason: str
    metric: str = ""
    attack: str = ""
    point: int | None = None

    @property
    def blocks(self) -> bool:
        """Whether the numbers in its reach are not a verdict."""
        return self.status in ("fail", "unknown")


@dataclass(frozen=True)
class Level:
    """How much a model that was not attacked knows."""

    model: Literal["original", "unlearned", "control"]
    step: int
    metric: str
    split: str
    interval: Interval


@dataclass(frozen=True)
class Recovery:
    """What one attack, at one point, brought back.

    Args:
        attack: Label of the attack.
        attack_config: Its settings.
        family: The kind of attack.
        point: Its strength.
        unit: What a point counts.
        step: Step of the fit at which it ran.
        metric: The metric.
        forget: The metric on the forget set, under attack.
        retain: The metric on the retain set, under attack.
        rho: (attacked - unlearned) / (original - unlearned) on the forget set.
        adjusted: The same, less what the attack teaches a control that never knew.
        kappa: (attacked - floor) / (original - floor), if a floor is known.
        worst: Whether this is the point of its attack and metric that brought back most.
        reasons: The gates it does not pass, in words. A number with reasons is not a verdict.
    """

    attack: str
    attack_config: dict[str, Any]
    family: str
    point: int
    unit: str
    step: int
    metric: str
    forget: Interval
    retain: Interval | None
    rho: Interval
    adjusted: Interval | None = None
    kappa: float | None = None
    worst: bool = False
    reasons: list[str] = field(default_factory=list)

    @property
    def is_verdict(self) -> bool:
        """Whether every gate in whose reach the number lies is passed."""
        return not self.reasons

    @property
    def shown(self) -> Interval:
        """The recovery to lead with: control-adjusted, if a control was attacked too."""
        return self.rho if self.adjusted is None else self.adjusted
