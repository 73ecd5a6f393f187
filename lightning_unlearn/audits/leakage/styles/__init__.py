"""Styles in which the same facts are asked."""

from lightning_unlearn.audits.leakage.styles._answer_style import AnswerStyle, Asked, asked_as
from lightning_unlearn.audits.leakage.styles._answer_styles import answer_styles
from lightning_unlearn.audits.leakage.styles._in_answer_styles import (
    AnswerStyles,
)
from lightning_unlearn.audits.leakage.styles._multiple_choice import MultipleChoice
from lightning_unlearn.audits.leakage.styles._phrased import Phrased
from lightning_unlearn.audits.leakage.styles._renamed import Renamed
from lightning_unlearn.audits.leakage.styles._true_false import TrueFalse

__all__ = [
    "AnswerStyle",
    "AnswerStyles",
    "Asked",
    "MultipleChoice",
    "Phrased",
    "Renamed",
    "TrueFalse",
    "answer_styles",
    "asked_as",
]
