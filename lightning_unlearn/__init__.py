"""Make a model forget inside the PyTorch Lightning fit you already have, and prove it."""

from lightning_unlearn.attacks import Attack, Quantize, Relearn
from lightning_unlearn.audits import Audit
from lightning_unlearn.callbacks import (
    FinetuneFirst,
    RecoveryCheck,
    SavePretrained,
    StepGuard,
    SubspaceGuard,
    Unlearn,
    WriteReport,
    unlearning,
)
from lightning_unlearn.data import ForgetRetainData, QuestionAnswerData
from lightning_unlearn.metrics import AnswerProbability, ExactMemorization, KnowledgeMetric, TokenNLL
from lightning_unlearn.models import LoRA, PretrainedCausalLM, TinyCausalLM
from lightning_unlearn.module import UnlearningModule
from lightning_unlearn.objectives import (
    DPO,
    NPO,
    RMU,
    Bounded,
    CrossEntropy,
    GradientAscent,
    KLToReference,
    Objective,
    SimNPO,
)
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, Projector, TorchJD, WeightedSum
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, PackedCausalLMReadout, Readout
from lightning_unlearn.references import AdapterDisabled, CachedLogLikelihood, FrozenCopy, Reference
from lightning_unlearn.report import RobustnessReport

__version__ = "0.1.0"

__all__ = [
    "AdapterDisabled",
    "AnswerProbability",
    "Attack",
    "Audit",
    "Bounded",
    "CachedLogLikelihood",
    "CausalLMReadout",
    "ClassificationReadout",
    "CrossEntropy",
    "DPO",
    "ExactMemorization",
    "FrozenCopy",
    "GradientAscent",
    "HalfSpace",
    "KLToReference",
    "KnowledgeMetric",
    "LoRA",
    "NPO",
    "Objective",
    "Orthogonal",
    "PCGrad",
    "PackedCausalLMReadout",
    "Prediction",
    "PretrainedCausalLM",
    "Projector",
    "Quantize",
    "QuestionAnswerData",
    "RMU",
    "Readout",
    "RecoveryCheck",
    "Reference",
    "Relearn",
    "RobustnessReport",
    "SavePretrained",
    "SimNPO",
    "ForgetRetainData",
    "StepGuard",
    "SubspaceGuard",
    "FinetuneFirst",
    "TinyCausalLM",
    "TokenNLL",
    "TorchJD",
    "Unlearn",
    "UnlearningModule",
    "WeightedSum",
    "WriteReport",
    "unlearning",
]
