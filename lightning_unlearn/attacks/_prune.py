from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks._on_matrices import EachAlone
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.attacks._strengths import ByFraction
from lightning_unlearn.engine import sum_by_scope
from lightning_unlearn.functional.by_rows import by_rows
from lightning_unlearn.functional.magnitude import smallest_bound
from lightning_unlearn.functional.settings import check_between
from lightning_unlearn.models.layers import Matrix


class Prune(ByFraction, EachAlone):
    r"""Deploy the network with its smallest weights set to zero: what was unlearned by small weight changes is cut off.

    .. math:: w \leftarrow w \cdot [\, |w| > t \,]

    where :math:`t` is the magnitude below which a fraction of the weights of each matrix lies; equal ones go together.
    Pruned is what :class:`Quantize` rounds, one matrix at a time, stacked experts as one, after active adapters are merged
    into it. Nothing is trained afterwards.

    On sharded parameters (FSDP2) the bound is that of the whole matrix: processes exchange counts only.

    Args:
        fraction: Of the weights of each matrix, from 0 to 1.
        head: Whether the output head is pruned too, if it is not tied to an embedding.
        skip: Names of further layers to leave out: patterns of a full name or of any part between dots.
        merge_adapters: Whether active adapters are merged into the base before it is pruned.
        store: Where the one copy of the original weights is kept: ``"cpu"`` takes no memory of the device, ``"device"`` is
            faster there, which counts where the attack is a vantage point in each step.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(4, 1)
        >>> _ = network.weight.data.copy_(torch.tensor([[0.1, -0.9, 0.3, -0.2]]))
        >>> with Prune(fraction=0.5)(network) as points:
        ...     next(points), network.weight.data
        (0.5, tensor([[ 0.0000, -0.9000,  0.3000,  0.0000]]))

    References:
        Han et al., `Learning both Weights and Connections <https://arxiv.org/abs/1506.02626>`_, 2015.
    """

    def __init__(
        self,
        fraction: float = 0.5,
        *,
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
    ) -> None:
        check_between("fraction", fraction, 0, 1)
        super().__init__(head=head, skip=skip, merge_adapters=merge_adapters, store=store)
        self.fraction = fraction

    @override
    def change_of(self, matrix: Matrix) -> Rounding:
        # A weight that is computed is whole in each process when it is.
        weight = None if matrix.is_computed else matrix.tensor

        def over_shards(counts: Tensor) -> Tensor:
            return counts if weight is None else sum_by_scope([counts], [weight], [0], 1)[0]

        def pruned(values: Tensor) -> Tensor:
            size = values.numel() if weight is None else weight.numel()
            if not (count := round(self.fraction * size)):
                return values
            bound = smallest_bound(values.abs(), count, over_shards)
            return by_rows(lambda rows: rows.masked_fill(rows.abs().float() <= bound, 0), values)

        return pruned
