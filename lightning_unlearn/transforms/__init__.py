"""Transforms of the forget gradient before it is merged, and of the step that the optimizer really took."""

from lightning_unlearn.transforms._chain import Stage, StepChain
from lightning_unlearn.transforms._gradient_transform import GradientTransform
from lightning_unlearn.transforms._group_sparse import GroupSparse
from lightning_unlearn.transforms._neural_variability import NeuralVariability
from lightning_unlearn.transforms._only_in import OnlyIn
from lightning_unlearn.transforms._protected_entries import protected_by, protected_entries
from lightning_unlearn.transforms._reg_lora import RegLoRA
from lightning_unlearn.transforms._row_mask import RowMask
from lightning_unlearn.transforms._spectral_collapse import SpectralCollapse
from lightning_unlearn.transforms._step import Step
from lightning_unlearn.transforms._step_transform import Restriction, StepTransform
from lightning_unlearn.transforms._train_only import TrainOnly

__all__ = [
    "GradientTransform",
    "GroupSparse",
    "NeuralVariability",
    "OnlyIn",
    "RegLoRA",
    "Restriction",
    "RowMask",
    "SpectralCollapse",
    "Stage",
    "Step",
    "StepChain",
    "StepTransform",
    "TrainOnly",
    "protected_by",
    "protected_entries",
]
