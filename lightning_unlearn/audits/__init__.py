"""Observing what a network knows, and changing nothing: checks run audits without an attack and under each one."""

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._decodability import Decodability, decodability
from lightning_unlearn.audits._generation import Generation
from lightning_unlearn.audits._measure import Measure
from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit, SharedScores
from lightning_unlearn.audits._specificity import Specificity
from lightning_unlearn.audits._states import read_states, stacked_states
from lightning_unlearn.audits.leakage import ExactLeak, HalfRecall, SampledLeak, Verbatim

__all__ = [
    "Audit",
    "Decodability",
    "ExactLeak",
    "Generation",
    "HalfRecall",
    "Measure",
    "SampledLeak",
    "Scores",
    "ScoringAudit",
    "SharedScores",
    "Specificity",
    "Verbatim",
    "decodability",
    "read_states",
    "stacked_states",
]
