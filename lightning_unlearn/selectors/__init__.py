"""Which weights matter for what must go."""

from lightning_unlearn.selectors._base import Selector, selectable
from lightning_unlearn.selectors._causal_trace import CausalTrace
from lightning_unlearn.selectors._chosen import AtLeast, Choice, TopLayers, TopNumber, TopShare
from lightning_unlearn.selectors._condition_number import ConditionNumber
from lightning_unlearn.selectors._fisher_conflict import FisherConflict
from lightning_unlearn.selectors._fisher_ratio import FisherRatio
from lightning_unlearn.selectors._gradient_saliency import GradientSaliency
from lightning_unlearn.selectors._last_layers import LastLayers
from lightning_unlearn.selectors._layer_ablation import LayerAblation
from lightning_unlearn.selectors._module_drift import ModuleDrift
from lightning_unlearn.selectors._random import Random
from lightning_unlearn.selectors._scored_targets import ScoredTargets
from lightning_unlearn.selectors._top_update import TopUpdate

__all__ = [
    "AtLeast",
    "CausalTrace",
    "Choice",
    "ConditionNumber",
    "FisherConflict",
    "FisherRatio",
    "GradientSaliency",
    "LastLayers",
    "LayerAblation",
    "ModuleDrift",
    "Random",
    "ScoredTargets",
    "Selector",
    "TopLayers",
    "TopNumber",
    "TopShare",
    "TopUpdate",
    "selectable",
]
