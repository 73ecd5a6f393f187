"""What a learning rate is chosen by: stated before anything was run, but for what `tofu.py` says of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEEP = 0.95
"""The share of the original's retain probability that must be left, where a setting does not say otherwise."""


def lead(unlearned: Mapping[str, Sequence[float]], control: Mapping[str, Sequence[float]]) -> float:
    """How far an attacker is ahead of one with a network that never knew, at the best of his points.

    Before the first step counts, too: what was not forgotten is ahead from the start. No gap is divided by, so a network
    that forgot little cannot look good.
    """
    return max(float(np.mean(unlearned[point])) - float(np.mean(control[point])) for point in unlearned)


def chosen_rate(trials: Sequence[Mapping[str, Any]], keep: float | None = KEEP) -> float:
    """The rate of the trial with the smallest lead among those that keep enough of the retain probability.

    If none does, or ``keep`` is ``None``, the one with the largest difference of what it keeps and the lead. A trial of
    which no weights but the original's were within the budget keeps all, and has done nothing: it is chosen if there is no
    other.
    """
    worked = [trial for trial in trials if "error" not in trial]
    if not worked:
        raise ValueError(f"At least one trial should have worked. Found {[trial['error'] for trial in trials]}.")
    moved = [trial for trial in worked if trial["steps"]] or worked
    good = [] if keep is None else [trial for trial in moved if kept(trial) >= keep]
    best = min(good or moved, key=lambda trial: trial["lead"] - (0 if good else kept(trial)))
    return float(best["rate"])


def kept(trial: Mapping[str, Any]) -> float:
    """Retain probability over the original's."""
    return float(np.mean(trial["retain"])) / float(np.mean(trial["original retain"]))
