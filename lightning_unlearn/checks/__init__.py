"""Observing the network during a fit, without and under attack, and leaving the fit as it was."""

from lightning_unlearn.checks._audits_under_attack import AuditsUnderAttack, Examined
from lightning_unlearn.checks._control import OtherModel
from lightning_unlearn.checks._intact import Intact
from lightning_unlearn.checks._looks import weights_on_every_rank
from lightning_unlearn.checks._planned import (
    last_step,
    planned_looks,
    seconds_at_start,
    seconds_of_a_look,
    shown_worst,
    steps_per_epoch,
)
from lightning_unlearn.checks._records import merged
from lightning_unlearn.checks._recovery_check import RecoveryCheck

__all__ = [
    "AuditsUnderAttack",
    "Examined",
    "Intact",
    "OtherModel",
    "RecoveryCheck",
    "last_step",
    "merged",
    "planned_looks",
    "seconds_at_start",
    "seconds_of_a_look",
    "shown_worst",
    "steps_per_epoch",
    "weights_on_every_rank",
]
