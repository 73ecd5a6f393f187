"""What an attacker may train on beside the forget data: records made of, or chosen by, other records."""

from lightning_unlearn.data.relearning._made import (
    MadeRecords,
)
from lightning_unlearn.data.relearning._random_text import RandomText
from lightning_unlearn.data.relearning._related import Related
from lightning_unlearn.data.relearning._rephrased import Rephrased
from lightning_unlearn.data.relearning._same_shape import SameShape
from lightning_unlearn.data.relearning._similarity import Levenshtein, Similarity, TfIdf
from lightning_unlearn.data.relearning._swapped_answers import SwappedAnswers

__all__ = [
    "Levenshtein",
    "MadeRecords",
    "RandomText",
    "Related",
    "Rephrased",
    "SameShape",
    "Similarity",
    "SwappedAnswers",
    "TfIdf",
]
