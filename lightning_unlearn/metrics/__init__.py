"""What is still known: torchmetrics whose ``update`` takes a Prediction, or a Likelihood."""

from lightning_unlearn.metrics._among_answers import AmongAnswers
from lightning_unlearn.metrics._answer_log_probability import AnswerLogProbability
from lightning_unlearn.metrics._answer_probability import AnswerProbability
from lightning_unlearn.metrics._answer_text import AnswerText
from lightning_unlearn.metrics._base import KnowledgeMetric
from lightning_unlearn.metrics._exact_memorization import ExactMemorization
from lightning_unlearn.metrics._extraction_strength import ExtractionStrength
from lightning_unlearn.metrics._fluency import Fluency
from lightning_unlearn.metrics._forget_quality import ForgetQuality
from lightning_unlearn.metrics._loss import Loss
from lightning_unlearn.metrics._min_k import MinK
from lightning_unlearn.metrics._min_k_plus_plus import MinKPlusPlus
from lightning_unlearn.metrics._model_utility import ModelUtility
from lightning_unlearn.metrics._option_probability import OptionProbability
from lightning_unlearn.metrics._refusal_rate import RefusalRate
from lightning_unlearn.metrics._rouge_l import RougeLF, RougeLRecall
from lightning_unlearn.metrics._token_nll import TokenNLL
from lightning_unlearn.metrics._truth_ratio import (
    TruthRatio,
    TruthRatioNearOne,
    TruthRatioTrueBetter,
    TruthRatioTrueShare,
)
from lightning_unlearn.metrics._zlib_ratio import ZlibRatio

__all__ = [
    "KnowledgeMetric",
    "AmongAnswers",
    "AnswerLogProbability",
    "AnswerProbability",
    "AnswerText",
    "ExactMemorization",
    "ExtractionStrength",
    "Fluency",
    "ForgetQuality",
    "Loss",
    "MinK",
    "MinKPlusPlus",
    "ModelUtility",
    "OptionProbability",
    "RefusalRate",
    "RougeLF",
    "RougeLRecall",
    "TokenNLL",
    "TruthRatio",
    "TruthRatioNearOne",
    "TruthRatioTrueBetter",
    "TruthRatioTrueShare",
    "ZlibRatio",
]
