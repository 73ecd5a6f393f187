"""What forgetting, or retaining, minimises."""

from lightning_unlearn.objectives._base import Objective
from lightning_unlearn.objectives._bounded import Bounded
from lightning_unlearn.objectives._cross_entropy import CrossEntropy
from lightning_unlearn.objectives._gradient_ascent import GradientAscent
from lightning_unlearn.objectives._kl_to_reference import KLToReference
from lightning_unlearn.objectives._npo import NPO
from lightning_unlearn.objectives._sim_npo import SimNPO

__all__ = ["Objective", "CrossEntropy", "GradientAscent", "Bounded", "NPO", "SimNPO", "KLToReference"]
