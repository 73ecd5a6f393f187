"""How the gradients of forgetting and retaining are merged."""

from lightning_unlearn.projectors._base import Projector
from lightning_unlearn.projectors._weighted_sum import WeightedSum

__all__ = ["Projector", "WeightedSum"]
