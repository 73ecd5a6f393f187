"""Records that are made of other records: asked otherwise, masked, repeated, combined."""

from lightning_unlearn.data.rewrites._blacklist_spans import BlacklistSpans
from lightning_unlearn.data.rewrites._combined_queries import CombinedQueries
from lightning_unlearn.data.rewrites._duplicate_dose import DuplicateDose
from lightning_unlearn.data.rewrites._hierarchy import Hierarchy
from lightning_unlearn.data.rewrites._in_context_unlearning import InContextUnlearning
from lightning_unlearn.data.rewrites._joint_instances import (
    Capitals,
    CountWords,
    FirstLetters,
    JointInstances,
    Skill,
)
from lightning_unlearn.data.rewrites._paraphrases import Paraphrases
from lightning_unlearn.data.rewrites._reasoning_spans import (
    GivenVerdicts,
    Majority,
    ReasoningSpans,
    TellsAnswer,
    TraceJudge,
)

__all__ = [
    "BlacklistSpans",
    "Capitals",
    "CombinedQueries",
    "CountWords",
    "DuplicateDose",
    "FirstLetters",
    "GivenVerdicts",
    "Hierarchy",
    "InContextUnlearning",
    "JointInstances",
    "Majority",
    "Paraphrases",
    "ReasoningSpans",
    "Skill",
    "TellsAnswer",
    "TraceJudge",
]
