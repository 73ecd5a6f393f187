"""Observing what a network knows, and changing nothing: checks run audits without an attack and under each one."""

from lightning_unlearn.audits._base import Audit
from lightning_unlearn.audits._bucket_flips import BucketFlips
from lightning_unlearn.audits._decodability import Decodability, decodability
from lightning_unlearn.audits._generation import Generation
from lightning_unlearn.audits._measure import Measure
from lightning_unlearn.audits._scoring_audit import Scores, ScoringAudit, SharedScores
from lightning_unlearn.audits._specificity import Specificity
from lightning_unlearn.audits._states import read_states, stacked_states
from lightning_unlearn.audits._unattacked import Unattacked
from lightning_unlearn.audits.inside import (
    Calibration,
    IdempotenceDrift,
    KnowledgeDepth,
    LayerProbe,
    LogitLens,
    probe_layers,
)
from lightning_unlearn.audits.leakage import ExactLeak, HalfRecall, SampledLeak, Verbatim
from lightning_unlearn.audits.membership import AnswerRank, DoseResponse, Familiarity, GradientNorm, Membership
from lightning_unlearn.audits.tofu import TOFU

__all__ = [
    "AnswerRank",
    "Audit",
    "BucketFlips",
    "Calibration",
    "Decodability",
    "DoseResponse",
    "ExactLeak",
    "Familiarity",
    "Generation",
    "GradientNorm",
    "HalfRecall",
    "IdempotenceDrift",
    "KnowledgeDepth",
    "LayerProbe",
    "LogitLens",
    "Measure",
    "Membership",
    "SampledLeak",
    "Scores",
    "ScoringAudit",
    "SharedScores",
    "TOFU",
    "Specificity",
    "Unattacked",
    "Verbatim",
    "decodability",
    "probe_layers",
    "read_states",
    "stacked_states",
]
