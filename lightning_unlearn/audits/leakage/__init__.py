"""What leaks when a network is asked: in its first choices, among sampled answers, after a beginning, in other styles."""

from lightning_unlearn.audits.leakage._exact_leak import ExactLeak
from lightning_unlearn.audits.leakage._half_recall import HalfRecall
from lightning_unlearn.audits.leakage._sampled_leak import SampledLeak
from lightning_unlearn.audits.leakage._verbatim import Verbatim
from lightning_unlearn.audits.leakage.scores import (
    AnswerScore,
    BehindTrace,
    ContainsAnswer,
    ExactAnswer,
    InTrace,
    OnlyInTrace,
    Refuses,
    RougeAtLeast,
    RougeRecall,
)
from lightning_unlearn.audits.leakage.styles import (
    AnswerStyle,
    AnswerStyles,
    MultipleChoice,
    Phrased,
    Renamed,
    TrueFalse,
    answer_styles,
)

__all__ = [
    "AnswerScore",
    "AnswerStyle",
    "AnswerStyles",
    "BehindTrace",
    "ContainsAnswer",
    "ExactAnswer",
    "ExactLeak",
    "HalfRecall",
    "InTrace",
    "MultipleChoice",
    "OnlyInTrace",
    "Phrased",
    "Refuses",
    "Renamed",
    "RougeAtLeast",
    "RougeRecall",
    "SampledLeak",
    "TrueFalse",
    "Verbatim",
    "answer_styles",
]
