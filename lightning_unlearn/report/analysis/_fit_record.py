"""What a report records of the fit that it is about."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from lightning_unlearn.checks._costs import totals
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.engine import callbacks_of
from lightning_unlearn.forgetting import Unlearn
from lightning_unlearn.report.analysis._recorded import recorded
from lightning_unlearn.report.schema import RobustnessReport


def with_fit(
    report: RobustnessReport, trainer: pl.Trainer, budget: Mapping[str, float], edits: Sequence[str] = ()
) -> RobustnessReport:
    """The report with what the trainer knows: weights, what changed, costs, seeds, the budget, the method.

    Args:
        report: What the checks of this trainer observed.
        trainer: Whose fit it was.
        budget: Steps, batches and seconds of the fit.
        edits: Edits that were made at once, by their names.
    """
    checks = callbacks_of(trainer, RecoveryCheck)
    return recorded(
        report,
        weights={model: hashes for check in checks for model, hashes in check.weights.items()},
        changes=next((check.changes for check in checks if check.changes), []),
        costs=totals(cost for check in checks for cost in check.costs),
        seeds=_seeds(checks),
        budget=budget,
        objective=", ".join(repr(callback.objective) for callback in callbacks_of(trainer, Unlearn)),
        edits=edits,
    )


def _seeds(checks: Sequence[RecoveryCheck]) -> dict[str, int]:
    """The seed of ``seed_everything``, and those of the attacks, by their names."""
    everything = os.environ.get("PL_GLOBAL_SEED", "")
    of_attacks: dict[str, Any] = {
        name: getattr(attack, "seed", None) for check in checks for name, attack in check.attacks.items()
    }
    seeds = {"everything": int(everything)} if everything.isdigit() else {}
    return seeds | {name: seed for name, seed in of_attacks.items() if isinstance(seed, int)}
