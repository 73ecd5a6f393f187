from __future__ import annotations

import math
import sys
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.transforms._gradient_transform import GradientTransform


class RowMask(GradientTransform):
    r"""Forget in few output units: in each matrix, keep the rows with the largest gradient, and set the others to zero.

    .. math:: g_i \leftarrow g_i \, [\, \|g_i\|_2 \text{ among the } \lceil \text{share} \cdot n \rceil \text{ largest} \,]

    A row :math:`g_i` holds all weights of one output unit: a slice along the first axis of a weight, or along the last axis
    for the ``Conv1D`` of transformers. The rows of a vector (bias, normalisation) are its elements. A scalar is kept. The
    rows of LoRA's factors are those of the factors, not of their product. Among rows of equal norm the first are kept.

    This limits how many units move, not how far: Adam rescales the rows that are left. A parameter with all rows masked in a
    step still has a gradient, of zeros, so weight decay and momentum go on.

    Args:
        share: Share of the rows of each tensor to keep, in (0, 1]; rounded up, so at least one row is kept. 1 changes
            nothing.

    Example:
        >>> gradient = torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
        >>> RowMask(share=1 / 3)([gradient], [torch.nn.Parameter(torch.zeros(3, 2))])
        [tensor([[3., 4.],
                [0., 0.],
                [0., 0.]])]

    References:
        SURE, in Zhang et al., `Catastrophic Failure of LLM Unlearning via Quantization <https://arxiv.org/abs/2410.16454>`_,
        2025. There a row is kept if its norm is above a percentile (the 90th) over the rows of *all* tensors, and the mask
        is put on the sum of both gradients; here the share is of each tensor, and the retain gradient stays whole.
    """

    needs_whole: ClassVar[bool] = True

    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"`share` should be above 0 and at most 1. Found `share = {share}`.")
        self.share = share
        self._transposed: set[int] = set()

    @override
    def attach(self, module: nn.Module) -> None:
        """Find the weights that have their output units as columns."""
        self._transposed = {id(m.weight) for m in module.modules() if _is_conv1d(m)}

    @override
    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        if not gradient.dim():
            return gradient
        axis = gradient.dim() - 1 if id(param) in self._transposed else 0
        units = gradient.shape[axis]
        # 0.1 * 30 gives 3.0000000000000004, which should count as 3.
        kept = math.ceil(self.share * units - 1e-9)
        if kept >= units:
            return gradient
        # In half precision many norms would be equal, or infinite.
        precise = torch.promote_types(gradient.dtype, torch.float32)
        norms = torch.linalg.vector_norm(gradient.movedim(axis, 0).reshape(units, -1), dim=1, dtype=precise)
        # Stable, so that processes which transform the same gradient break ties alike.
        masked = norms.argsort(descending=True, stable=True)[kept:]
        return gradient.index_fill_(axis, masked, 0.0)

    def __repr__(self) -> str:
        return f"RowMask(share={self.share})"


def _is_conv1d(module: nn.Module) -> bool:
    # Without importing transformers, which is slow: if it was not imported, there is no such layer.
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and isinstance(module, loaded.Conv1D)
