from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.cone import Correction, null_multipliers
from lightning_unlearn.guards.rules._base import Rule


class NoChange(Rule):
    r"""No protected loss may change.

    .. math:: \min_{d'} \lVert d' - d \rVert_M \quad \text{s.t.} \quad G^\top d' = 0

    On the step of a whole fit this also takes out what the fit learns on the protected data. Use it where nothing should be
    learnt there, or beside ``Unlearn(optimizer=...)``, where only the step of forgetting is guarded.

    Example:
        >>> import torch
        >>> K = torch.eye(2, dtype=torch.float64)
        >>> NoChange().multipliers(K, torch.tensor([2.0, -3.0], dtype=torch.float64)).multipliers
        tensor([ 2., -3.], dtype=torch.float64)
    """

    @override
    def multipliers(self, gramian: Tensor, along: Tensor) -> Correction:
        return null_multipliers(gramian, along)

    @override
    def breach(self, cosines: Tensor) -> Tensor:
        return cosines.abs().max()  # a fall of a protected loss breaks this rule, too
