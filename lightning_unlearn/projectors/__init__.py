"""How the gradients of forgetting and retaining are merged."""

from lightning_unlearn.projectors._base import Projector
from lightning_unlearn.projectors._half_space import HalfSpace
from lightning_unlearn.projectors._linear_schedule import LinearSchedule
from lightning_unlearn.projectors._orthogonal import Orthogonal
from lightning_unlearn.projectors._pcgrad import PCGrad
from lightning_unlearn.projectors._primal_dual import ObservingProjector, PrimalDual
from lightning_unlearn.projectors._sign_rule import SignRule
from lightning_unlearn.projectors._torchjd import TorchJD
from lightning_unlearn.projectors._weighted_sum import WeightedSum

__all__ = [
    "HalfSpace",
    "LinearSchedule",
    "ObservingProjector",
    "Orthogonal",
    "PCGrad",
    "PrimalDual",
    "Projector",
    "SignRule",
    "TorchJD",
    "WeightedSum",
]
