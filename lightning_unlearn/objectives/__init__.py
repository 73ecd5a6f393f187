"""What forgetting, or retaining, minimises."""

from lightning_unlearn.objectives._activation_drift import ActivationDrift
from lightning_unlearn.objectives._activation_match import ActivationMatch
from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._bounded import Bounded
from lightning_unlearn.objectives._ceu import CEU
from lightning_unlearn.objectives._cross_entropy import CrossEntropy
from lightning_unlearn.objectives._dpo import DPO
from lightning_unlearn.objectives._encoded_match import EncodedMatch
from lightning_unlearn.objectives._fixed_random_label import FixedRandomLabel
from lightning_unlearn.objectives._flat import FLAT
from lightning_unlearn.objectives._gradient_ascent import GradientAscent
from lightning_unlearn.objectives._gradient_reversal_probe import GradientReversalProbe
from lightning_unlearn.objectives._importance_scheduled import ImportanceScheduled
from lightning_unlearn.objectives._jens_un import JensUn
from lightning_unlearn.objectives._jsd_to_reference import JSDToReference
from lightning_unlearn.objectives._kl_to_reference import KLToReference
from lightning_unlearn.objectives._logit_margin_flattening import LogitMarginFlattening
from lightning_unlearn.objectives._mcu import MCU
from lightning_unlearn.objectives._mlp_confuse import MLPConfuse
from lightning_unlearn.objectives._npo import NPO
from lightning_unlearn.objectives._probe_alignment import ProbeAlignment
from lightning_unlearn.objectives._prompt_decouple import PromptDecouple
from lightning_unlearn.objectives._prototypes import PrototypeObjective, PrototypePull, PrototypePush
from lightning_unlearn.objectives._random_label import RandomLabel
from lightning_unlearn.objectives._representation_deviation import RepresentationDeviation
from lightning_unlearn.objectives._representation_rerouting import RepresentationRerouting
from lightning_unlearn.objectives._rmu import RMU
from lightning_unlearn.objectives._sat_imp import SatImp
from lightning_unlearn.objectives._scope_term import ScopeTerm
from lightning_unlearn.objectives._sim_npo import SimNPO
from lightning_unlearn.objectives._span_pair import SpanPair
from lightning_unlearn.objectives._top_k_kl import TopKKL
from lightning_unlearn.objectives._undial import UNDIAL
from lightning_unlearn.objectives._uniform_label import UniformLabel
from lightning_unlearn.objectives._wga import WGA

__all__ = [
    "Objective",
    "CrossEntropy",
    "GradientAscent",
    "Bounded",
    "NPO",
    "DPO",
    "RMU",
    "ActivationMatch",
    "EncodedMatch",
    "RepresentationDeviation",
    "GradientReversalProbe",
    "ProbeAlignment",
    "PrototypeObjective",
    "PrototypePull",
    "PrototypePush",
    "ActivationDrift",
    "MLPConfuse",
    "MCU",
    "RepresentationRerouting",
    "ImportanceScheduled",
    "JensUn",
    "JSDToReference",
    "FLAT",
    "SpanPair",
    "SimNPO",
    "WGA",
    "SatImp",
    "CEU",
    "UNDIAL",
    "LogitMarginFlattening",
    "RandomLabel",
    "FixedRandomLabel",
    "UniformLabel",
    "KLToReference",
    "TopKKL",
    "PromptDecouple",
    "ScopeTerm",
]
