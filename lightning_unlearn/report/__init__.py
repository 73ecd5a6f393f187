"""The report a sceptical reviewer reads: `assess` makes it from observations, `save` and `print_table` show it."""

from lightning_unlearn.report.analysis import (
    add_point,
    adjusted_recovery_rate,
    assess,
    environment,
    percentile_interval,
    recorded,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)
from lightning_unlearn.report.render import print_table, save, to_model_card, to_page
from lightning_unlearn.report.schema import (
    DEPLOYMENTS,
    Gate,
    Interval,
    Level,
    Method,
    Record,
    Recovery,
    RobustnessReport,
)

__all__ = [
    "add_point",
    "DEPLOYMENTS",
    "Gate",
    "Interval",
    "Level",
    "Method",
    "Record",
    "Recovery",
    "RobustnessReport",
    "adjusted_recovery_rate",
    "assess",
    "environment",
    "percentile_interval",
    "recorded",
    "print_table",
    "recovery_rate",
    "resampled_means",
    "retained_knowledge",
    "save",
    "to_model_card",
    "to_page",
]
