from lightning_unlearn.report._environment import environment
from lightning_unlearn.report._report import RobustnessReport
from lightning_unlearn.report._schema import NOT_ATTACKED, Gate, Interval, Level, Observation, Recovery
from lightning_unlearn.report._statistics import (
    adjusted_recovery_rate,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)

__all__ = [
    "RobustnessReport",
    "Observation",
    "Interval",
    "Gate",
    "Level",
    "Recovery",
    "NOT_ATTACKED",
    "environment",
    "recovery_rate",
    "adjusted_recovery_rate",
    "retained_knowledge",
    "resampled_means",
    "percentile_interval",
]
