"""FIT: a filter of rows that say nothing new, an objective by importance, and layers by ablation, for each request."""

from lightning_unlearn.requests.fit._embedding_gradient import embedding_gradient
from lightning_unlearn.requests.fit._fit import FIT
from lightning_unlearn.requests.fit._fit_score import FITScore
from lightning_unlearn.requests.fit._redundancy import Dropped, RedundancyFilter
from lightning_unlearn.requests.fit._sentence_model import SentenceModel
from lightning_unlearn.requests.fit._thresholds import AtQuantiles, AtValues, Thresholds
from lightning_unlearn.requests.fit._top_layers import only_top_layers

__all__ = [
    "AtQuantiles",
    "AtValues",
    "Dropped",
    "FIT",
    "FITScore",
    "RedundancyFilter",
    "SentenceModel",
    "Thresholds",
    "embedding_gradient",
    "only_top_layers",
]
