from dataclasses import dataclass, field
from typing import Any

from lightning_unlearn.report.schema._interval import Interval

DEPLOYMENTS = frozenset({"quant", "prune", "merge", "compress"})
"""Families of changes made in good faith, in order to use the model. Every other family is an adversary's."""


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
        rho: Raw recovery: (attacked - unlearned) / (original - unlearned) on the forget set.
        adjusted: The same, less what the attack teaches a control that never knew.
        kappa: (attacked - floor) / (original - floor), if a floor is known.
        price: Share of the unlearned model's retain utility that the attack costs; negative if it adds some.
        specificity: How often the right answer is ahead of others' answers under attack; chance is 0.5.
        others: The metric under attack on every further split, by its name.
        worst: Whether this is the point of its attack and metric that brought back most.
        p_value: How probable so much recovery (beyond the control's, if there is one) would be if nothing came back.
        q_value: The same for the attack as a whole, all its points and all attacks considered: among attacks up to a
            q-value of 0.05, one in twenty is expected to have brought back nothing.
        reasons: The gates it does not pass, in words. A number with reasons is not a verdict.
    """

    attack: str
    attack_config: dict[str, Any]
    family: str
    point: float
    unit: str
    step: int
    metric: str
    forget: Interval
    retain: Interval | None
    rho: Interval
    adjusted: Interval | None = None
    kappa: float | None = None
    price: float | None = None
    specificity: Interval | None = None
    others: dict[str, Interval] = field(default_factory=dict)
    worst: bool = False
    p_value: float | None = None
    q_value: float | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def is_verdict(self) -> bool:
        """Whether the number passes all gates that apply to it."""
        return not self.reasons

    @property
    def is_unspecific(self) -> bool:
        """Whether G7 is the only gate that it misses: the right answer is not ahead of other answers."""
        return bool(self.reasons) and all(reason.startswith("G7") for reason in self.reasons)

    @property
    def is_incomplete(self) -> bool:
        """Whether something failed that belongs to it, so that the worst that the attack brings back is not shown."""
        return any(reason.startswith("G8") for reason in self.reasons)

    @property
    def is_deployment(self) -> bool:
        """Whether it is a deployment, not an attack of an adversary."""
        return self.family in DEPLOYMENTS

    @property
    def shown(self) -> Interval:
        """The recovery to lead with: control-adjusted, if a control was attacked too."""
        return self.rho if self.adjusted is None else self.adjusted
