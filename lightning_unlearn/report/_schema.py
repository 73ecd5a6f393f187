"""What a report is made of: values that survive a round trip through JSON unchanged."""

from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["forget", "retain"]
Subject = Literal["student", "control"]
Status = Literal["pass", "fail", "unknown", "warning"]

NOT_ATTACKED = "none"
"""The `attack` of a look at a model nobody attacked."""


@dataclass(frozen=True)
class Observation:
    """One look at a model: one metric, on one split, under one attack (or none), at one moment of the fit.

    Args:
        attack: The attack's label in the report, or ``"none"``.
        attack_config: Its settings, as plain values.
        family: The kind of attack: ``"quant"``, ``"relearn"``; empty for no attack.
        point: The strength looked at: a number of bits, a number of steps.
        unit: What a point counts: ``"bits"``, ``"step"``.
        step: Optimizer step of the fit; 0 is the original model, before any unlearning.
        epoch: Epoch of the fit.
        metric: Name of the metric.
        split: Whether the examples were to be forgotten or retained.
        value: What the metric computed.
        scores: One score per example, whose mean is the value. Without them there are no intervals.
        entities: Whom or what each score is about (an author, a document, a class), parallel to ``scores``. Scores of
            one entity are never treated as independent. Empty: every example stands for itself.
        higher_means_more_knowledge: Whether a larger value means that the model knows more.
        bounds: Smallest and largest possible value, if both are finite.
        subject: Whether the student was looked at, or a control that never saw the forget set.

    Example:
        >>> look = Observation(metric="probability", split="forget", value=0.5, step=0, scores=[0.25, 0.75])
        >>> look.estimate
        0.5
    """

    metric: str
    split: Split
    value: float
    step: int
    epoch: int = 0
    attack: str = NOT_ATTACKED
    attack_config: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    point: int = 0
    unit: str = ""
    scores: list[float] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    higher_means_more_knowledge: bool = True
    bounds: tuple[float, float] | None = None
    subject: Subject = "student"

    def __post_init__(self) -> None:
        if self.split not in ("forget", "retain"):
            raise ValueError(f'`split` should be "forget" or "retain". Found `split = {self.split!r}`.')
        if self.subject not in ("student", "control"):
            raise ValueError(f'`subject` should be "student" or "control". Found `subject = {self.subject!r}`.')
        if self.entities and len(self.entities) != len(self.scores):
            raise ValueError(
                "`entities` should name one entity per score. "
                f"Found {len(self.entities)} entities for {len(self.scores)} scores of `{self.metric}`."
            )

    @property
    def attacked(self) -> bool:
        """Whether this is a look at an attacked model."""
        return self.attack != NOT_ATTACKED

    @property
    def estimate(self) -> float:
        """The mean of the scores, which is what intervals are about; the value, if there are no scores."""
        return sum(self.scores) / len(self.scores) if self.scores else self.value

    @property
    def clusters(self) -> list[str]:
        """The entity of each score; without entities, every score is its own."""
        return self.entities or [str(index) for index in range(len(self.scores))]


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
    split: Split
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
