from lightning_unlearn.report._environment import environment
from lightning_unlearn.report._report import RobustnessReport
from lightning_unlearn.report._schema import Gate, Interval, Level, Recovery
from lightning_unlearn.report._statistics import (
    adjusted_recovery_rate,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)

__all__ = [
    "RobustnessReport",
    "Interval",
    "Gate",
    "Level",
    "Recovery",
    "environment",
    "recovery_rate",
    "adjusted_recovery_rate",
    "retained_knowledge",
    "resampled_means",
    "percentile_interval",
]
