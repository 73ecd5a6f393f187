"""What goes with each row that must go."""

from lightning_unlearn.data.companions._alternates import Alternates
from lightning_unlearn.data.companions._companion import Companion
from lightning_unlearn.data.companions._concatenated_question import ConcatenatedQuestion
from lightning_unlearn.data.companions._decoupled_question import DecoupledQuestion
from lightning_unlearn.data.companions._refusals import Refusals
from lightning_unlearn.data.companions._rewritten_trace import RewrittenTrace
from lightning_unlearn.data.companions._same_image import SameImage

__all__ = [
    "Alternates",
    "Companion",
    "ConcatenatedQuestion",
    "DecoupledQuestion",
    "Refusals",
    "RewrittenTrace",
    "SameImage",
]
