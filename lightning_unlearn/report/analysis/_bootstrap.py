"""From observations to numbers with intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._paired_scores import of_common_examples, paired_scores
from lightning_unlearn.report.analysis._statistics import (
    Floats,
    adjusted_recovery_rate,
    is_unstable,
    percentile_interval,
    recovery_rate,
    resampled_means,
)
from lightning_unlearn.report.schema import Interval

MIN_ENTITIES = 2
"""With a single entity all resamples are equal: an interval of width 0 would claim a certainty that nobody has."""


@dataclass(frozen=True)
class Bootstrap:
    """The paired cluster bootstrap, from observations to intervals.

    Args:
        draws: Number of resamples.
        seed: Of the generator.

    Example:
        >>> who = ["a", "a", "b", "b"]
        >>> scores = [0.25, 0.25, 0.75, 0.75]
        >>> seen = Observation(metric="p", split="forget", value=0.5, step=0, scores=scores, entities=who)
        >>> interval = Bootstrap().level(seen)
        >>> interval.value, interval.low, interval.high, interval.entities
        (0.5, 0.25, 0.75, 2)
    """

    draws: int = 2000
    seed: int = 0

    def level(self, observation: Observation) -> Interval:
        """How much a model knows."""
        if observation.interval is not None:
            examples, entities = len(observation.scores), len(set(observation.clusters))
            return Interval(observation.value, *observation.interval, examples=examples, entities=entities)
        return self.interval([observation], lambda value: np.asarray(value))

    def gap(self, original: Observation, unlearned: Observation) -> Interval:
        """How much knowledge was removed; positive if the original knew more, also for a loss."""
        sign = 1 if original.higher_means_known else -1
        return self.interval([original, unlearned], lambda full, less: np.asarray(sign * (full - less)))

    def recovery(self, original: Observation, unlearned: Observation, attacked: Observation) -> Interval:
        """The share of the gap that an attack brought back.

        Numerator and denominator are resampled together: both depend on the same examples, and their errors partly cancel.
        """
        return self.interval([original, unlearned, attacked], recovery_rate, divides=True)

    def adjusted(self, student: Sequence[Observation], control: Sequence[Observation]) -> Interval:
        """The recovery of (original, unlearned, attacked), less what (control, attacked control) learned."""
        return self.interval([*student, *control], adjusted_recovery_rate, divides=True)

    def interval(
        self, observations: Sequence[Observation], of: Callable[..., Floats], *, divides: bool = False
    ) -> Interval:
        """The interval of a function of the observations' means.

        Args:
            observations: One per argument of ``of``.
            of: From means to the number, elementwise.
            divides: Whether ``of`` divides by the first mean less the second.
        """
        observations = of_common_examples(observations)
        means = [observation.estimate for observation in observations]
        with np.errstate(invalid="ignore"):  # a broken model's scores may be inf or NaN
            value = float(of(*means))
        # Whole entities are resampled, since questions about one author or document are not independent.
        scores, entities = paired_scores(observations), observations[0].clusters
        number = len(set(entities))
        if scores is None or number < MIN_ENTITIES or not math.isfinite(value):
            return Interval(value, examples=len(observations[0].scores), entities=number)
        # The same seed for all: one draw of entities gives every observation's mean, so comparisons stay paired.
        columns = resampled_means(scores, entities, draws=self.draws, seed=self.seed).T
        if divides and is_unstable(columns[0] - columns[1], means[0] - means[1]):
            return Interval(value, unbounded=True, examples=len(entities), entities=number)
        low, high = percentile_interval(of(*columns))
        return Interval(value, low, high, examples=len(entities), entities=number)
