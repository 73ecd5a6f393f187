"""What counts as a leak in what a network said."""

from lightning_unlearn.audits.leakage.scores._answer_score import AnswerScore
from lightning_unlearn.audits.leakage.scores._contains_answer import ContainsAnswer, ExactAnswer
from lightning_unlearn.audits.leakage.scores._in_trace import BehindTrace, InTrace, OnlyInTrace
from lightning_unlearn.audits.leakage.scores._refuses import Refuses
from lightning_unlearn.audits.leakage.scores._rouge_recall import RougeAtLeast, RougeRecall, recall

__all__ = [
    "AnswerScore",
    "BehindTrace",
    "ContainsAnswer",
    "ExactAnswer",
    "InTrace",
    "OnlyInTrace",
    "Refuses",
    "RougeAtLeast",
    "RougeRecall",
    "recall",
]
