"""Observing the network during a fit, without and under attack, and leaving the fit as it was."""

from lightning_unlearn.checks._recovery_check import RecoveryCheck

__all__ = ["RecoveryCheck"]
