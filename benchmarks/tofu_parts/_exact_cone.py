from __future__ import annotations

from torch import Tensor
from torchjd.linalg import DualConeProjector

from lightning_unlearn.functional.cone import cone_multipliers


class ExactCone(DualConeProjector):
    """UPGrad's projections by our own active sets: no solver to install, and gradients of any length.

    ``v = u + x`` with the least ``v' G v`` over ``x >= 0`` makes the merged gradient a descent of every loss.
    """

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        return U + cone_multipliers(G.expand(len(U), *G.shape), -(U @ G)).multipliers
