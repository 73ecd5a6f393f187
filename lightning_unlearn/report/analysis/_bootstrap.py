"""From observations to numbers with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_unlearn.observation import Observation
from lightning_unlearn.report.analysis._mover import holds_zero
from lightning_unlearn.report.analysis._paired_scores import of_common_examples, paired_scores
from lightning_unlearn.report.analysis._parts import from_parts, given, is_certain, is_share, share_of
from lightning_unlearn.report.analysis._statistics import Floats, ratio
from lightning_unlearn.report.analysis._studentised import studentised_interval
from lightning_unlearn.report.analysis._totals import Totals, weighted_totals
from lightning_unlearn.report.schema import Interval

MIN_ENTITIES = 5
"""With fewer no interval over entities holds what it promises (``benchmarks/interval_coverage.py``): rows are used."""
RECOVERED, GAP = (0, -1, 1), (1, -1, 0)
"""What is recovered, and what was removed, of (original, unlearned, attacked)."""

OVER_ENTITIES = "studentised cluster bootstrap"
OVER_ROWS = "studentised bootstrap over examples, of these entities alone"


@dataclass(frozen=True)
class Bootstrap:
    """Intervals of levels, gaps and recoveries: the studentised paired cluster bootstrap, and exact intervals of shares.

    Args:
        draws: Number of resamples.
        seed: Of the generator.

    Example:
        >>> who = [f"author {index // 2}" for index in range(12)]
        >>> seen = Observation("p", "forget", 0.5, scores=[0.25, 0.25, 0.75, 0.75] * 3, entities=who)
        >>> interval = Bootstrap().level(seen)
        >>> interval.value, interval.low < 0.25, interval.entities, interval.method
        (0.5, True, 6, 'studentised cluster bootstrap')
    """

    draws: int = 2000
    seed: int = 0

    def level(self, observation: Observation) -> Interval:
        """How much a model knows."""
        if observation.interval is not None:
            return given(observation)
        if is_share(observation.scores):
            return share_of(observation, least=MIN_ENTITIES)
        return _within(self.interval([observation], over=[1]), observation.bounds)

    def gap(self, original: Observation, unlearned: Observation) -> Interval:
        """How much knowledge was removed; positive if the original knew more, also for a loss."""
        sign = 1 if original.higher_means_known else -1
        return self.interval([original, unlearned], over=[sign, -sign])

    def recovery(self, original: Observation, unlearned: Observation, attacked: Observation) -> Interval:
        """The share of the gap that an attack brought back.

        Numerator and denominator are resampled together: both depend on the same examples, and their errors partly cancel.
        """
        return self.interval([original, unlearned, attacked], over=RECOVERED, under=GAP)

    def adjusted(self, student: Sequence[Observation], control: Sequence[Observation]) -> Interval:
        """The recovery of (original, unlearned, attacked), less what (control, attacked control) learned."""
        return self.interval([*student, *control], over=[*RECOVERED, 1, -1], under=[*GAP, 0, 0])

    def interval(
        self, observations: Sequence[Observation], over: Sequence[float], under: Sequence[float] | None = None
    ) -> Interval:
        """The interval of a weighted sum of observations, or of the ratio of two.

        Args:
            observations: Of the same examples; otherwise there is no interval.
            over: The weight of each in the numerator.
            under: Its weight in the denominator; None if there is none.
        """
        observations = of_common_examples(observations)
        means = np.array([observation.estimate for observation in observations])
        with np.errstate(invalid="ignore"):  # a broken model's scores may be inf or NaN
            value = float(means @ over if under is None else ratio(means @ over, means @ under))
        entities = observations[0].clusters
        bare = Interval(value, examples=len(entities), entities=len(set(entities)))
        if not math.isfinite(value):
            return bare
        if any(observation.interval for observation in observations):
            return from_parts(bare, [self.level(observation) for observation in observations], over, under)
        scores = paired_scores(observations)
        if scores is None:
            return bare
        # Whole entities are resampled, since questions about one author or document are not independent.
        totals = weighted_totals(scores, entities, over, under)
        if is_certain(scores, totals):
            return from_parts(bare, [self.level(observation) for observation in observations], over, under)
        if bare.entities >= MIN_ENTITIES:
            return self.of_totals(totals, replace(bare, method=OVER_ENTITIES))
        rows = [str(row) for row in range(len(entities))]
        return self.of_totals(weighted_totals(scores, rows, over, under), replace(bare, method=OVER_ROWS))

    def of_totals(self, totals: Totals, bare: Interval) -> Interval:
        """The same number with the interval of a ratio of two sums over independent entities, if these are not too few."""
        if len(totals.over) < MIN_ENTITIES:
            return replace(bare, method="")
        # Fieller's case: over a gap that may be 0 a ratio's interval runs through infinity.
        if totals.divides and holds_zero(self._ends(totals.under, np.ones_like(totals.under))):
            return replace(bare, unbounded=True)
        low, high = self._ends(totals.over, totals.under)
        # The number was summed in another order: where nothing varies it may lie beside its interval by a rounding error.
        return replace(bare, low=min(low, bare.value), high=max(high, bare.value))

    def _ends(self, over: Floats, under: Floats) -> tuple[float, float]:
        low, high = studentised_interval(over, under, draws=self.draws, seed=self.seed)
        return float(low), float(high)


def _within(interval: Interval, bounds: tuple[float, float] | None) -> Interval:
    if bounds is None or interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))
