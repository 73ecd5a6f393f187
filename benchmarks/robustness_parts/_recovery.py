"""From curves to recoveries, their worst and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_unlearn.report.analysis import adjusted_recovery_rate, percentile_interval, resampled_means

Curve = Mapping[str, Sequence[float]]
Floats = NDArray[np.float64]

FORGOTTEN = 0.05
"""The least share of what was taught that must have gone for its recovery to mean anything."""


def forgotten(original: Sequence[float], unlearned: Sequence[float], control: Sequence[float]) -> float:
    """The share of what the original knows more than the control that is gone."""
    return float((np.mean(original) - np.mean(unlearned)) / (np.mean(original) - np.mean(control)))


@dataclass(frozen=True)
class Seen:
    """What one judge found in one fit: the probability of each forgotten answer, by point of his attack.

    Args:
        original: Before anything was unlearned.
        before: After unlearning, and of the control, without an attack.
        unlearned: Curve of the unlearned network.
        control: Curve of the network that never knew.
        judged: Which answers: those that the attacker was not given, if he was given half of them.
        counts_steps: Whether his points are steps; otherwise he takes none.
    """

    original: Sequence[float]
    before: tuple[Sequence[float], Sequence[float]]
    unlearned: Curve
    control: Curve
    judged: slice
    counts_steps: bool

    def points(self, most: int) -> list[str]:
        """The points at which he may be judged, of a budget of ``most`` steps."""
        return [point for point in self.unlearned if not self.counts_steps or int(point) <= most]

    def scores(self, point: str) -> Floats:
        """One row per judged answer: original, unlearned, attacked, control, control attacked."""
        unlearned, control = self.before
        columns = (self.original, unlearned, self.unlearned[point], control, self.control[point])
        return np.asarray(columns, dtype=float).T[self.judged]

    def recovery(self, point: str) -> float:
        """Control-adjusted recovery at a point; not a number if too little was forgotten to come back."""
        if forgotten(self.original, *self.before) < FORGOTTEN:
            return float("nan")
        return float(adjusted_recovery_rate(*self.scores(point).mean(0)))

    def worst(self, most: int) -> tuple[float, str]:
        """The largest recovery up to ``most`` steps, and its point."""
        return max((self.recovery(point), point) for point in self.points(most))


def worst(judges: Mapping[str, Seen], most: int) -> tuple[float, str, str]:
    """The largest recovery over judges and their points up to ``most`` steps: its value, judge and point."""
    found = {name: seen.worst(most) for name, seen in judges.items()}
    name = max(found, key=found.__getitem__)
    value, point = found[name]
    return value, name, point


def interval(chosen: Sequence[Floats]) -> tuple[float, float]:
    """95 % interval of the mean recovery over seeds, ``[n, 5]`` scores each, by bootstrap over the forgotten facts.

    All seeds share each draw where they are judged on the same facts. Judge and point are held fixed. There are two or
    three entities only, too few to resample: the interval says how much facts differ, not people.
    """
    draws = [_recoveries(scores) for scores in chosen]
    return percentile_interval(np.mean(draws, axis=0))


def _recoveries(scores: Floats) -> Floats:
    return adjusted_recovery_rate(*resampled_means(scores, [f"{row:03}" for row in range(len(scores))]).T)
