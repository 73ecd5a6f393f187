from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.functional.settings import check_not_negative
from lightning_unlearn.projectors._base import Projector


class WeightedSum(Projector):
    r"""The usual way: add the gradients, each with a fixed weight.

    .. math:: g = w_f \, g_f + w_r \sum_i g_{r,i}

    With ``retain = 1`` the user's own gradient is applied whole. It promises nothing: where forgetting and retaining
    conflict, the larger gradient wins.

    Args:
        forget: Weight of the forget gradient, non-negative.
        retain: Weight of each retain gradient, non-negative.

    Example:
        >>> import torch
        >>> WeightedSum(forget=0.5)(torch.eye(3, dtype=torch.float64))
        tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, forget: float = 1.0, retain: float = 1.0) -> None:
        super().__init__()
        for name, weight in (("forget", forget), ("retain", retain)):
            check_not_negative(name, weight, why=": the sign is the objective's")
        self.forget = forget
        self.retain = retain

    @override
    def extra_repr(self) -> str:
        """The weights."""
        return f"forget={self.forget}, retain={self.retain}"

    @override
    def forward(self, gramian: Tensor) -> Tensor:
        """The weights, whatever the gradients are."""
        weights = gramian.new_full((len(gramian),), self.retain)
        weights[0] = self.forget
        return weights
