from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks._calibrated import Calibrated
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.attacks._strengths import ByFraction
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.models.layers import Matrix


class Wanda(ByFraction, Calibrated):
    r"""Deploy the network without the weights that matter least to retain data: small ones, on inputs that are small.

    .. math:: w_{ij} \leftarrow 0 \quad \text{for the smallest } |w_{ij}| \cdot \lVert x_j \rVert_2
        \text{ of each output } i

    with the norm of input :math:`j` over the calibration batches. Beside :class:`Prune`, which knows no data, this cuts off
    what is used by nothing that must stay, and keeps the rest better. Nothing is trained afterwards. In a layer that no
    calibration batch goes through the weights alone decide.

    Args:
        fraction: Of the weights of each output, from 0 to 1.
        batches: How many retain batches are looked at, the first ones.
        head: Whether the output head is pruned too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base before it is pruned.
        store: Where the one copy of the original weights is kept: ``"cpu"`` takes no memory of the device, ``"device"`` is
            faster there, which counts where the attack is a vantage point in each step.

    Raises:
        ValueError: If there are no retain batches.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.1, -0.9]]))
        >>> inputs = torch.tensor([[10.0, 0.1]])
        >>> with Wanda(fraction=0.5)(layer, batches=[inputs], loss=lambda x: layer(x).sum()) as points:
        ...     next(points), layer.weight.data
        (0.5, tensor([[0.1000, 0.0000]]))

    References:
        Sun et al., `A Simple and Effective Pruning Approach for Large Language Models <https://arxiv.org/abs/2306.11695>`_,
        2024, eq. 1.
    """

    def __init__(
        self,
        fraction: float = 0.5,
        *,
        batches: int = 16,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
    ) -> None:
        check_between("fraction", fraction, 0, 1)
        super().__init__(batches=batches, head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.fraction = fraction

    @override
    def statistic(self, inputs: Tensor) -> Tensor:
        return inputs.square().sum(0)

    @override
    def calibrated(self, matrix: Matrix, statistic: Tensor) -> Rounding:
        # Squares of sums over batches: their root is the norm, up to a factor. Without any input the weights decide.
        norms = statistic.sqrt() if statistic.any() else statistic + 1

        def pruned(weight: Tensor) -> Tensor:
            count = round(self.fraction * weight.shape[1])
            least = (weight.abs() * norms).argsort(dim=1, stable=True)[:, :count]
            return weight.scatter(1, least, 0)

        return pruned
