from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.guards.subspaces._base import Subspace


class NullSpace(Subspace):
    r"""Let steps act on directions with little retained input: the relaxed null space of KUDA, as we reconstruct it.

    We had neither the paper's text nor its code, only a digest. With the inputs of a layer as the rows of
    :math:`K`,

    .. math:: \tfrac{1}{n} K^\top K = U \Lambda U^\top, \qquad \text{free:} \; u_j \; \text{with}
        \; \lambda_j \le \tau \, \lambda_{\max}

    and everything else is protected. The relative threshold is our choice: it means the same in every layer.

    Recording takes ``8 d^2`` bytes for each layer of ``d`` inputs, for all layers at once. Each layer then takes one
    eigendecomposition, of order ``d^3``. Use :class:`InputSubspace` for wide layers, or choose some by ``layers``.

    Args:
        threshold: :math:`\tau`, in [0, 1]. At 0 every direction with any input is protected (above 1e-13 of the largest
            eigenvalue), at 1 none is.

    Example:
        >>> inputs = torch.tensor([[2.0, 0.0], [0.0, 0.1]], dtype=torch.float64)
        >>> null_space = NullSpace(threshold=1e-2)
        >>> null_space.protected(null_space.summary(inputs))[0].abs()
        tensor([[1.],
                [0.]], dtype=torch.float64)

    References:
        `KUDA <https://arxiv.org/abs/2602.19275>`_, 2026.
    """

    def __init__(self, threshold: float = 1e-2) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"`threshold` should be in [0, 1]: a share of the largest eigenvalue. Found `threshold = {threshold}`."
            )
        self.threshold = threshold

    @override
    def summary(self, inputs: Tensor) -> Tensor:
        return inputs.T @ inputs

    @override
    def protected(self, summary: Tensor) -> tuple[Tensor, bool]:
        values, vectors = torch.linalg.eigh(summary)
        # `eigh` sorts upwards: the last is the largest. Below 1e-13 of it there is only the rounding of float64.
        kept = values > max(self.threshold, 1e-13) * values[-1:]
        return vectors[:, kept].flip(1), True
