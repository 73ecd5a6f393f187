from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.cone import Correction, cone_multipliers
from lightning_unlearn.guards.rules._base import Rule


class NoIncrease(Rule):
    r"""No protected loss may rise. It may fall.

    .. math:: \min_{d'} \lVert d' - d \rVert_M \quad \text{s.t.} \quad G^\top d' \le 0

    A safe step is left as it is, to the bit.

    Example:
        >>> import torch
        >>> K = torch.eye(2, dtype=torch.float64)
        >>> NoIncrease().multipliers(K, torch.tensor([2.0, -3.0], dtype=torch.float64)).multipliers
        tensor([2., 0.], dtype=torch.float64)

    References:
        `Geometric-disentanglement Unlearning <https://arxiv.org/abs/2511.17100>`_, 2025, in the form of the
        authors' repaired code. The constraints are those of
        `Gradient Episodic Memory <https://arxiv.org/abs/1706.08840>`_, 2017.
    """

    @override
    def multipliers(self, gramian: Tensor, along: Tensor) -> Correction:
        return cone_multipliers(gramian, along)

    @override
    def breach(self, cosines: Tensor) -> Tensor:
        return cosines.max()
