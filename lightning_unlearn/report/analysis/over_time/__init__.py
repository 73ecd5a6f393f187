"""What observations tell over time: how fast facts come and go, what is kept, and what else was lost."""

from lightning_unlearn.report.analysis.over_time._acquisition import (
    Decay,
    Effectivity,
    effectivity,
    log_time_decay,
    retainability,
    without_outliers,
)
from lightning_unlearn.report.analysis.over_time._brackets import Bracket, brackets
from lightning_unlearn.report.analysis.over_time._by_fact import FactsGained, facts_gained
from lightning_unlearn.report.analysis.over_time._depth import unlearning_depth
from lightning_unlearn.report.analysis.over_time._forgotten import HALF, EntityCurve, Forgetting, forgetting
from lightning_unlearn.report.analysis.over_time._oscillation import Oscillation, oscillation
from lightning_unlearn.report.analysis.over_time._over_time import over_time
from lightning_unlearn.report.analysis.over_time._retention import Retention, retention_curves
from lightning_unlearn.report.analysis.over_time._series import (
    Series,
    attacks_over_time,
    during_the_fit,
    under_attack,
)
from lightning_unlearn.report.analysis.over_time._transfer import Transfer, TransferMatrix, transfer, transfer_matrix

__all__ = [
    "Bracket",
    "Decay",
    "Effectivity",
    "EntityCurve",
    "FactsGained",
    "Forgetting",
    "HALF",
    "Oscillation",
    "Retention",
    "Series",
    "Transfer",
    "TransferMatrix",
    "attacks_over_time",
    "brackets",
    "during_the_fit",
    "effectivity",
    "facts_gained",
    "forgetting",
    "log_time_decay",
    "oscillation",
    "over_time",
    "retainability",
    "retention_curves",
    "transfer",
    "transfer_matrix",
    "under_attack",
    "unlearning_depth",
    "without_outliers",
]
