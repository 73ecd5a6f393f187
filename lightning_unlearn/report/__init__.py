"""The report a sceptical reviewer reads: `assess` makes it from observations, `save` and `print_table` show it."""

from lightning_unlearn.report.analysis import (
    add_point,
    adjusted_recovery_rate,
    assess,
    environment,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)
from lightning_unlearn.report.comparison import Compared, Comparison, compare, print_comparison, save_comparison
from lightning_unlearn.report.render import print_table, save, to_page
from lightning_unlearn.report.schema import DEPLOYMENTS, Gate, Interval, Level, Recovery, RobustnessReport

__all__ = [
    "add_point",
    "Compared",
    "Comparison",
    "DEPLOYMENTS",
    "Gate",
    "Interval",
    "Level",
    "Recovery",
    "RobustnessReport",
    "adjusted_recovery_rate",
    "assess",
    "compare",
    "environment",
    "percentile_interval",
    "print_comparison",
    "print_table",
    "recovery_rate",
    "resampled_means",
    "retained_knowledge",
    "save",
    "save_comparison",
    "to_page",
]
