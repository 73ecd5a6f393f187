"""The values that checks produce and reports consume: what was observed, what failed, what changed and what it cost."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

_T = TypeVar("_T")

Subject = Literal["original", "unlearned", "control"]
"""Whose knowledge: the model before unlearning, the model during or after it, or a model that never knew."""

NOT_ATTACKED = "none"
"""The ``attack`` of an observation without an attack."""

SHARE_REACHED = "share_reached"
"""Key in an ``attack_config``: the share of the weights that the attack reached, from 0 to 1."""

MEMBERSHIP = "membership_auc_"
"""Beginning of the names of metrics that say how well what must go is told from examples that nobody was trained on."""

BLIND = "blind_auc"
"""Name of the metric that says the same of a classifier that never saw the model."""


def strength(point: float, unit: str) -> str:
    """The strength of an attack in words: a unit in the plural is counted, any other one is a name.

    Example:
        >>> strength(4, "bits"), strength(20, "step"), strength(0.3, "alpha"), strength(7, "")
        ('4 bits', 'step 20', 'alpha 0.3', '7')
    """
    return f"{point} {unit}" if unit.endswith("s") else f"{unit} {point}".strip()


@dataclass(frozen=True)
class Observation:
    """One measurement of a model: one metric, on one split, under one attack (or none), at one step of the fit.

    Args:
        metric: Name of the metric.
        split: Name of the examples: ``"forget"`` for those that must go, ``"retain"`` for those that must stay, or any
            other name.
        value: What the metric computed.
        step: Optimizer step of the fit at which it was made.
        subject: Whose knowledge it is.
        epoch: Epoch of the fit.
        attack: The attack's label in the report, or ``"none"``.
        attack_config: Its settings, as plain values, and perhaps ``share_reached``.
        family: The kind of attack: ``"quant"``, ``"relearn"``; empty for no attack.
        point: The strength of the attack at which it was made: a number of bits, a number of steps, a fraction.
        unit: What a point counts: ``"bits"``, ``"step"``.
        scores: One score per example, whose mean is the value. Without them there are no intervals.
        entities: What each score is about (an author, a document, a class), parallel to ``scores``. Scores of one entity
            are never treated as independent. If empty, every example counts as independent.
        higher_means_known: Whether a larger value means that the model knows more.
        bounds: Smallest and largest possible value; None unless both are finite.
        layer: The part of the network that it was read at; empty for the output.
        interval: A 95 % interval, if resampling ``scores`` would not give the right one: an AUC has two samples.
        examples: The number of each score's example in the data, parallel to ``scores``. Empty: all of them, in order. Where
            an attacker has trained on some examples and is judged by the others, only these are compared.
        texts: What the network said, parallel to ``scores``, if it said something.
        by_entity: Mean score of each entity, where the scores were dropped: of a look at which the fit was not over.

    Example:
        >>> Observation(metric="probability", split="forget", value=0.5, scores=[0.25, 0.75]).estimate
        0.5
    """

    metric: str
    split: str
    value: float
    step: int = 0
    subject: Subject = "unlearned"
    epoch: int = 0
    attack: str = NOT_ATTACKED
    attack_config: dict[str, Any] = field(default_factory=dict)
    family: str = ""
    point: float = 0
    unit: str = ""
    scores: list[float] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    higher_means_known: bool = True
    bounds: tuple[float, float] | None = None
    layer: str = ""
    interval: tuple[float, float] | None = None
    examples: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    by_entity: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.bounds or ())):
            object.__setattr__(self, "bounds", None)  # no range: a share of it could not be asked for
        # Checked here, not in the report: a wrong name would otherwise show up as a missing number after the fit.
        if not self.split:
            raise ValueError('`split` should be the name of the examples, such as "forget". Found an empty one.')
        if self.subject not in get_args(Subject):
            raise ValueError(f"`subject` should be one of {get_args(Subject)}. Found `subject = {self.subject!r}`.")
        for name, each in (("entities", self.entities), ("examples", self.examples), ("texts", self.texts)):
            if each and len(each) != len(self.scores):
                found = f"{len(each)} {name} for {len(self.scores)} scores of `{self.metric}`"
                raise ValueError(f"`{name}` should have one entry per score. Found {found}.")

    @property
    def attacked(self) -> bool:
        """Whether the model was attacked."""
        return self.attack != NOT_ATTACKED

    @property
    def estimate(self) -> float:
        """The mean of the scores, which intervals are for; the value, if there are no scores, or it has its own interval."""
        # A metric's value may be something else than this mean, a ratio of sums for instance. Intervals resample scores.
        return sum(self.scores) / len(self.scores) if self.scores and self.interval is None else self.value

    def at(self, examples: Collection[int]) -> Observation:
        """The same, of some examples only. Its value is the mean of their scores.

        Example:
            >>> Observation("probability", "forget", 0.5, scores=[0.25, 0.75], entities=["Ada", "Bo"]).at({1}).scores
            [0.75]
        """
        numbers = self.numbers
        chosen = [place for place, number in enumerate(numbers) if number in examples]

        def of(each: list[_T]) -> list[_T]:
            return [each[place] for place in chosen] if each else []

        scores = of(self.scores)
        value = sum(scores) / len(scores) if scores else float("nan")
        return replace(
            self,
            value=value,
            scores=scores,
            entities=of(self.entities),
            texts=of(self.texts),
            examples=[numbers[place] for place in chosen],
            interval=None,
        )

    @property
    def numbers(self) -> list[int]:
        """The number of each score's example in the data."""
        return self.examples or list(range(len(self.scores)))

    @property
    def entity_means(self) -> dict[str, float]:
        """The mean score of each entity: of the scores, or what was kept of those that were dropped.

        Example:
            >>> Observation("p", "forget", 0.5, scores=[0.25, 0.75, 0.5], entities=["Ada", "Ada", "Bo"]).entity_means
            {'Ada': 0.5, 'Bo': 0.5}
        """
        if not self.scores:
            return self.by_entity
        found: dict[str, list[float]] = {entity: [] for entity in self.clusters}
        for entity, score in zip(self.clusters, self.scores, strict=True):
            found[entity].append(score)
        return {entity: sum(scores) / len(scores) for entity, scores in found.items()}

    @property
    def clusters(self) -> list[str]:
        """The entity of each score. Without entities every score counts as independent, named by its number."""
        return self.entities or list(map(str, self.numbers))


@dataclass(frozen=True)
class Failure:
    """An attack or an audit that ended with an error. What it would have shown is not known.

    Args:
        error: Name of the error's class.
        message: The error's own words.
        attack: The attack's label in the report, or ``"none"`` if an audit failed without an attack.
        audit: Name of the audit's class; empty if the attack itself failed.
        point: The last point that the attack reached. It was not measured if an audit failed at it. None before the first.
        unit: What a point counts.
        family: The kind of attack; empty for no attack.
        attack_config: The attack's settings, as plain values.
        step: Optimizer step of the fit at which it happened.
        subject: Whose knowledge was to be measured.
        epoch: Epoch of the fit.

    Example:
        >>> Failure("RuntimeError", "out of memory", attack="relearn", point=5, unit="step").words
        'failed after step 5 (RuntimeError: out of memory)'
    """

    error: str
    message: str
    attack: str = NOT_ATTACKED
    audit: str = ""
    point: float | None = None
    unit: str = ""
    family: str = ""
    attack_config: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    subject: Subject = "unlearned"
    epoch: int = 0

    @property
    def attacked(self) -> bool:
        """Whether the model was attacked."""
        return self.attack != NOT_ATTACKED

    @property
    def who(self) -> str:
        """What failed."""
        return f"the attack {self.attack}" if self.attacked else f"the audit {self.audit}"

    @property
    def where(self) -> str:
        """How far the attack had come."""
        if self.point is None:
            return "before its first point" if self.attacked else ""
        reached = strength(self.point, self.unit)
        return f"at {reached}" if self.audit else f"after {reached}"

    @property
    def words(self) -> str:
        """That it failed, where, and of what."""
        in_audit = f"in the audit {self.audit}" if self.attacked and self.audit else ""
        error = f"{self.error}: {self.message}" if self.message else self.error
        return " ".join(part for part in ("failed", self.where, in_audit, f"({error})") if part)


@dataclass(frozen=True)
class Cost:
    """What looking at a model cost: under one attack, with all audits at all of its points, or without an attack.

    Args:
        attack: The attack's label in the report, or ``"none"``.
        subject: Whose knowledge was looked at.
        looks: How often it was done.
        seconds: In all, on the first process.
        losses: Batches that the attacker computed its loss on, on the first process; most are trained on.
        rows: Examples in these batches, on all processes: one that was seen twice counts twice.
        tokens: Of these examples, without padding; 0 where they are no text.

    Example:
        >>> Cost("relearn", "unlearned", looks=2, seconds=3.0, losses=40).per_look
        1.5
    """

    attack: str
    subject: Subject
    looks: int = 1
    seconds: float = 0.0
    losses: int = 0
    rows: int = 0
    tokens: int = 0

    @property
    def per_look(self) -> float:
        """Seconds of one look."""
        return self.seconds / self.looks

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return replace(
            self,
            looks=self.looks + other.looks,
            seconds=self.seconds + other.seconds,
            losses=self.losses + other.losses,
            rows=self.rows + other.rows,
            tokens=self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class Change:
    """How far a tensor of weights is from the original's.

    Args:
        tensor: Its name in the network.
        elements: How many weights it has.
        trainable: Whether the fit declared that it would change it.
        changed: Whether any bit of it differs.
        share: The share of its weights that differ, estimated from a sample.
        relative: Length of the difference over length of the original, from the same sample; None if it is not known.

    Example:
        >>> Change("model.layers.3.mlp.up_proj.weight", 64, True, True, 0.5).layer
        'model.layers.3'
    """

    tensor: str
    elements: int
    trainable: bool
    changed: bool
    share: float
    relative: float | None = None

    @property
    def layer(self) -> str:
        """The layer that it belongs to: its name up to the first number, else its module's name."""
        parts = self.tensor.split(".")
        numbers = [place for place, part in enumerate(parts[:-1]) if part.isdigit()]
        return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)
