"""Studies whose truth is known: scores of questions about entities, as models that forget would have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.report.analysis._totals import Totals, weighted_totals

Floats = NDArray[np.float64]
SPREAD = 1.5  # of a score's logit
LEVEL, GAP = ((1,), None), ((1, -1), None)
RECOVERY = ((0, -1, 1), (1, -1, 0))
ADJUSTED = ((0, -1, 1, 1, -1), (1, -1, 0, 0, 0))


def sigmoid(logit: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit))


@dataclass(frozen=True)
class Design:
    """How scores come about.

    Args:
        name: Of the table's row.
        weights: Of the columns, in the numerator and the denominator.
        columns: From what is particular to each row's entity ``[n, 3]``, the row's own logit ``[n]`` and a generator to
            the scores ``[n, k]``.
        is_share: Whether scores are 0 or 1.
    """

    name: str
    weights: tuple[tuple[float, ...], tuple[float, ...] | None]
    columns: Callable[[Floats, Floats, np.random.Generator], list[Floats]]
    is_share: bool = False

    @property
    def divides(self) -> bool:
        return self.weights[1] is not None

    def scores(self, particular: Floats, icc: float, generator: np.random.Generator) -> Floats:
        """Scores of rows, ``[n, k]``; ``icc`` is the share of the logit's variance that is the entity's."""
        own = generator.normal(size=len(particular))
        logit = SPREAD * (np.sqrt(icc) * particular[:, 0] + np.sqrt(1 - icc) * own)
        return np.stack(self.columns(particular, logit, generator), axis=1)

    def totals(self, scores: Floats, entity: NDArray[np.int64]) -> Totals:
        return weighted_totals(scores, entity, *self.weights)

    def truth(self, particular: Floats, icc: float, generator: np.random.Generator) -> float:
        """The number that endless rows about these entities would give."""
        over, under = self.weights
        means = self.scores(particular, icc, generator).mean(0)
        return float(means @ over / (1 if under is None else means @ under))


def jitter(generator: np.random.Generator, rows: int, spread: float = 0.3) -> Floats:
    return generator.normal(0, spread, rows)


def level(centre: float) -> Callable[[Floats, Floats, np.random.Generator], list[Floats]]:
    return lambda particular, logit, generator: [sigmoid(centre + logit)]


def gap(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
    return [sigmoid(2 + logit), sigmoid(-3 + logit + jitter(generator, len(logit)))]


def recovery(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
    openness = 1.5 * particular[:, 1]  # some entities come back more than others
    return [*gap(particular, logit, generator), sigmoid(-1 + logit + openness + jitter(generator, len(logit)))]


def adjusted(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
    taught = 0.7 * particular[:, 2]
    never = [sigmoid(-3.5 + logit), sigmoid(-2 + logit + taught + jitter(generator, len(logit), 1.0))]
    return [*recovery(particular, logit, generator), *never]


def small_gap(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
    rows, openness = len(logit), 0.5 * particular[:, 1]
    less = [sigmoid(centre + logit + jitter(generator, rows, 0.5)) for centre in (0.8, 1.2 + openness)]
    return [sigmoid(2 + logit), *less]


def rare(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
    full, less = gap(particular, logit, generator)
    comes_back = particular[:, 1] > 0.8416  # one entity in five
    return [full, less, np.where(comes_back, 0.8 * full + 0.2 * less, less)]


def yes(centre: float) -> Callable[[Floats, Floats, np.random.Generator], list[Floats]]:
    def columns(particular: Floats, logit: Floats, generator: np.random.Generator) -> list[Floats]:
        return [(generator.random(len(logit)) < sigmoid(centre + SPREAD * particular[:, 0])).astype(float)]

    return columns


DESIGNS = (
    Design("level about 0.5", LEVEL, level(0.0)),
    Design("level about 0.1, skewed", LEVEL, level(-3.0)),
    Design("level about 0.85, skewed", LEVEL, level(2.5)),
    Design("gap", GAP, gap),
    Design("recovery", RECOVERY, recovery),
    Design("recovery beyond the control", ADJUSTED, adjusted),
    Design("recovery of a small gap", RECOVERY, small_gap),
    Design("recovery, all of it in one entity of five", RECOVERY, rare),
    Design("share of yes, about 0.1", LEVEL, yes(-3.0), is_share=True),
    Design("share of yes, about 0.5", LEVEL, yes(0.0), is_share=True),
)
