"""From observations to a report: pairing, intervals, gates, recoveries and the verdict."""

from lightning_unlearn.report.analysis._assess import assess
from lightning_unlearn.report.analysis._environment import environment
from lightning_unlearn.report.analysis._recorded import recorded
from lightning_unlearn.report.analysis._statistics import (
    adjusted_recovery_rate,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)
from lightning_unlearn.report.analysis._thinned import add_point

__all__ = [
    "add_point",
    "adjusted_recovery_rate",
    "assess",
    "environment",
    "percentile_interval",
    "recorded",
    "recovery_rate",
    "resampled_means",
    "retained_knowledge",
]
