"""Observing the network during a fit, without and under attack, and leaving the fit as it was."""

from lightning_unlearn.checks._audits_under_attack import AuditsUnderAttack, Examined
from lightning_unlearn.checks._control import OtherModel
from lightning_unlearn.checks._intact import Intact
from lightning_unlearn.checks._looks import weights_on_every_rank
from lightning_unlearn.checks._planned import shown_worst
from lightning_unlearn.checks._records import merged
from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.checks._time_left import TimeLeft

__all__ = [
    "AuditsUnderAttack",
    "Examined",
    "Intact",
    "OtherModel",
    "RecoveryCheck",
    "TimeLeft",
    "merged",
    "shown_worst",
    "weights_on_every_rank",
]
