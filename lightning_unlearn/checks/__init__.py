"""Looking at the network during a fit, alone and under attack, and leaving the fit as it was."""

from lightning_unlearn.checks._recovery_check import RecoveryCheck
from lightning_unlearn.checks._refusal_check import RefusalCheck

__all__ = ["RecoveryCheck", "RefusalCheck"]
