"""What is compared: of one network a number, and the same number over facts that are drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from robustness_parts._recovery import FORGOTTEN, Seen, worst
from robustness_parts._recovery import forgotten as share_forgotten

from lightning_unlearn.report.analysis import adjusted_recovery_rate
from tofu_parts._draws import DRAWS, drawn, means

Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[str, list[Any]]]
BUDGETS = (20, 100)

TITLES = {
    "distance": "distance to the retain model, nats a token",
    "ks": "KS distance of truth ratios (0: as the retain model)",
    "retain": "retain answer probability",
    "utility": "model utility",
    "recovery 20": "worst recovery, up to 20 steps",
    "recovery 100": "worst recovery, up to 100 steps",
    "raw recovery": "worst recovery, up to 100 steps, control not taken off",
    "membership": "membership, AUC against authors nobody told",
    "forget probability": "forget answer probability",
    "extraction": "extraction strength",
}


@dataclass(frozen=True)
class Run:
    """All that is known of one network of one seed.

    Args:
        scores: What TOFU asked.
        retained: The same of the retain model.
        knows: Answer probabilities of ``forget``, ``retain`` and ``holdout``.
        judges: What each attacker found.
        original: Answer probabilities of what must go, before.
        control: The same of the retain model.
    """

    scores: Scores
    retained: Scores
    knows: Mapping[str, list[float]]
    judges: Mapping[str, Seen]
    original: list[float]
    control: list[float]


Measured = tuple[float, Floats]
NOTHING: Measured = float("nan"), np.full(DRAWS, np.nan)


def measured(run: Run) -> dict[str, Measured]:
    """Each measure with its draws."""
    forget, retained = run.scores["forget"], run.retained["forget"]
    return {
        "distance": _mean("forget", np.abs(np.subtract(forget["token_nll"], retained["token_nll"]))),
        "ks": _ks(forget["truth_ratio"], retained["truth_ratio"]),
        "retain": _mean("retain", run.scores["retain"]["answer_probability"]),
        **({"utility": _utility(run.scores)} if {"real_authors", "world_facts"} <= set(run.scores) else {}),
        **{f"recovery {most}": _recovery(run, most) for most in BUDGETS},
        "raw recovery": _raw_recovery(run),
        "membership": _membership(run.knows["forget"], run.knows["holdout"]),
        "forget probability": _mean("forget", forget["answer_probability"]),
        "extraction": _mean("forget", forget["extraction_strength"]),
    }


def forgotten(run: Run) -> float:
    """The share of what the original knows more than the retain model that is gone."""
    return share_forgotten(run.original, run.knows["forget"], run.control)


def _mean(split: str, values: Any) -> Measured:
    return float(np.mean(values)), means(split, values)


def _ks(one: list[float], other: list[float]) -> Measured:
    chosen = drawn("forget", len(one))
    first, second = np.asarray(one), np.asarray(other)
    return ks(first, second), np.array([ks(first[rows], second[rows]) for rows in chosen])


def ks(one: Floats, other: Floats) -> float:
    """Largest distance between two empirical distributions."""
    places = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(each), places, side="right") / len(each) for each in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _utility(scores: Scores) -> Measured:
    columns = {split: _three(scores[split], split) for split in ("retain", "real_authors", "world_facts")}
    point = np.concatenate([each.mean(0) for each in columns.values()])
    draws = np.concatenate([means(split, each) for split, each in columns.items()], axis=1)
    return float(harmonic_mean(point)), _harmonic(draws)


def _three(scores: Mapping[str, list[Any]], split: str) -> Floats:
    probability = scores["answer_probability" if split == "retain" else "option_probability"]
    better = np.maximum(0.0, 1.0 - np.asarray(scores["truth_ratio"], dtype=float))
    return np.stack([probability, scores["rouge_l_recall"], better], axis=1)


def _harmonic(rows: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(rows.shape[1] / (1.0 / rows).sum(1))


def _recovery(run: Run, most: int) -> Measured:
    """At the judge and the point where it is the largest. Not a number if too little was forgotten."""
    if not run.judges or forgotten(run) < FORGOTTEN:
        return NOTHING
    value, judge, point = worst(run.judges, most)
    return value, np.asarray(adjusted_recovery_rate(*means("forget", run.judges[judge].scores(point)).T))


def _raw_recovery(run: Run) -> Measured:
    """(attacked - unlearned) / (original - unlearned), as most papers have it, where it is the largest."""
    if not run.judges or forgotten(run) < FORGOTTEN:
        return NOTHING
    scores = [seen.scores(point)[:, :3] for seen in run.judges.values() for point in seen.points(max(BUDGETS))]
    worst_of_all = max(scores, key=lambda of: of[:, 2].mean())
    return float(_raw(worst_of_all.mean(0))), _raw(means("forget", worst_of_all))


def _raw(scores: Floats) -> Floats:
    original, unlearned, attacked = scores.T
    return np.asarray((attacked - unlearned) / (original - unlearned))


def _membership(members: list[float], others: list[float]) -> Measured:
    """Chance that what must go is likelier than what nobody was told: 1 is a member, 0.5 is none."""
    one, other = np.asarray(members)[:, None], np.asarray(others)[None, :]
    wins = (one > other) + 0.5 * (one == other)
    rows, columns = drawn("forget", len(members)), drawn("holdout", len(others))
    return float(wins.mean()), np.asarray(wins[rows[:, :, None], columns[:, None, :]].mean((1, 2)))
