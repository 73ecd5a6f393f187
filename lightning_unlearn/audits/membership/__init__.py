"""Membership: whether a network gives away which examples it was trained on, or was made to forget."""

from lightning_unlearn.audits.membership._answer_rank import AnswerRank
from lightning_unlearn.audits.membership._blind import BlindBaseline, blind_baseline
from lightning_unlearn.audits.membership._comparison import Comparison
from lightning_unlearn.audits.membership._dose_response import DoseResponse
from lightning_unlearn.audits.membership._familiarity import Familiarity
from lightning_unlearn.audits.membership._gradient_norm import GradientNorm
from lightning_unlearn.audits.membership._membership import Membership

__all__ = [
    "AnswerRank",
    "BlindBaseline",
    "Comparison",
    "DoseResponse",
    "Familiarity",
    "GradientNorm",
    "Membership",
    "blind_baseline",
]
