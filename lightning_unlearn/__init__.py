"""Make a model forget inside the PyTorch Lightning fit you already have, and prove it."""

from lightning_unlearn.attacks import Attack, Quantize, Recalibrate, Relearn
from lightning_unlearn.audits import Audit
from lightning_unlearn.callbacks import (
    ApplyEdit,
    FindLatentTargets,
    FinetuneFirst,
    LiveProbe,
    RecoveryCheck,
    RefitProbeDirections,
    SavePretrained,
    StepGuard,
    StepTransform,
    SubspaceGuard,
    TrainOnly,
    Unlearn,
    WriteReport,
    unlearning,
)
from lightning_unlearn.data import (
    CyclicOrder,
    Encoding,
    FileRecords,
    ForgetRetainData,
    InMemoryRecords,
    LoaderSettings,
    PairedData,
    QuestionAnswerData,
    RandomOrder,
    SequentialOrder,
)
from lightning_unlearn.edits import Edit, NegateTaskVector
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
from lightning_unlearn.observation import Failure, Observation
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.projectors import HalfSpace, Orthogonal, PCGrad, Projector, TorchJD, WeightedSum
from lightning_unlearn.readouts import (
    CausalLMReadout,
    ClassificationReadout,
    PackedCausalLMReadout,
    Readout,
    TrainingStepReadout,
)
from lightning_unlearn.references import AdapterDisabled, CachedLogLikelihood, FrozenCopy, Reference
from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.runtime import inherit_from_both_packages
from lightning_unlearn.selectors import Selector
from lightning_unlearn.transforms import GradientTransform, RowMask

__version__ = "0.1.0"
inherit_from_both_packages()

__all__ = [
    "AdapterDisabled",
    "AnswerProbability",
    "ApplyEdit",
    "Attack",
    "Audit",
    "Bounded",
    "CachedLogLikelihood",
    "CausalLMReadout",
    "ClassificationReadout",
    "CrossEntropy",
    "CyclicOrder",
    "DPO",
    "Edit",
    "Encoding",
    "ExactMemorization",
    "Failure",
    "FileRecords",
    "FindLatentTargets",
    "FinetuneFirst",
    "ForgetRetainData",
    "FrozenCopy",
    "GradientAscent",
    "GradientTransform",
    "HalfSpace",
    "InMemoryRecords",
    "KLToReference",
    "KnowledgeMetric",
    "LiveProbe",
    "LoRA",
    "LoaderSettings",
    "NPO",
    "NegateTaskVector",
    "Objective",
    "Observation",
    "Orthogonal",
    "PCGrad",
    "PackedCausalLMReadout",
    "PairedData",
    "Prediction",
    "PretrainedCausalLM",
    "Projector",
    "Quantize",
    "QuestionAnswerData",
    "RMU",
    "RandomOrder",
    "Readout",
    "RecoveryCheck",
    "Reference",
    "RefitProbeDirections",
    "Recalibrate",
    "Relearn",
    "RobustnessReport",
    "RowMask",
    "SavePretrained",
    "Selector",
    "SequentialOrder",
    "SimNPO",
    "StepGuard",
    "StepTransform",
    "SubspaceGuard",
    "TinyCausalLM",
    "TokenNLL",
    "TorchJD",
    "TrainOnly",
    "TrainingStepReadout",
    "Unlearn",
    "UnlearningModule",
    "WeightedSum",
    "WriteReport",
    "unlearning",
]
