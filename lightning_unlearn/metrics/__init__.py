"""What is still known: torchmetrics whose ``update`` takes a Prediction, or a Likelihood."""

from lightning_unlearn.metrics._answer_log_probability import AnswerLogProbability
from lightning_unlearn.metrics._answer_probability import AnswerProbability
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.metrics._exact_memorization import ExactMemorization
from lightning_unlearn.metrics._extraction_strength import ExtractionStrength
from lightning_unlearn.metrics._loss import Loss
from lightning_unlearn.metrics._min_k import MinK
from lightning_unlearn.metrics._min_k_plus_plus import MinKPlusPlus
from lightning_unlearn.metrics._refusal_rate import RefusalRate
from lightning_unlearn.metrics._token_nll import TokenNLL
from lightning_unlearn.metrics._zlib_ratio import ZlibRatio

__all__ = [
    "KnowledgeMetric",
    "AnswerLogProbability",
    "AnswerProbability",
    "ExactMemorization",
    "ExtractionStrength",
    "Loss",
    "MinK",
    "MinKPlusPlus",
    "RefusalRate",
    "TokenNLL",
    "ZlibRatio",
]
