from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from lightning_unlearn.attacks._quantize import Quantize
from lightning_unlearn.attacks._rounding import Rounding
from lightning_unlearn.engine import sharded_like
from lightning_unlearn.functional.grids import widths
from lightning_unlearn.functional.quantization import GroupSize
from lightning_unlearn.functional.settings import check_whole
from lightning_unlearn.models.layers import Matrix
from lightning_unlearn.runtime import hash_of, local


class RoundingNoise(Quantize):
    r"""Noise of the size of rounding, without rounding: the control for any claim about few bits.

    .. math:: w \leftarrow w + u, \qquad u \sim U(-B/2, B/2)

    with the width :math:`B` of the bucket that :class:`Quantize` would round the weight in; the largest weight of a group,
    which rounding keeps, gets none. If this brings back as much as rounding does, knowledge did not come back because small
    changes are rounded away: the loss is sharp there, and any perturbation of this size does the same.

    The noise depends on ``seed`` and the name of the layer alone. It is drawn for whole tensors, so that replicas, and
    shards of FSDP2, get the noise that one process would.

    Args:
        bits: Of the grid; this and the following settings as in :class:`Quantize`.
        group_size: Weights that share a scale.
        codebook: ``"int"``, ``"nf4"`` or ``"fp4"``.
        head: Whether the output head gets noise, too.
        skip: Names of further layers to leave out.
        merge_adapters: Whether active adapters are merged into the base before.
        store: Where the original weights are kept.
        seed: Of the noise, whatever the global random state. Drawn anew as a vantage point.

    Example:
        >>> network = torch.nn.Linear(3, 1)
        >>> _ = network.weight.data.copy_(torch.tensor([[0.1, -0.9, 1.0]]))
        >>> with RoundingNoise(bits=2)(network) as points:
        ...     moved = (network.weight.data - torch.tensor([[0.1, -0.9, 1.0]])).abs()
        >>> (moved <= torch.tensor([[0.5, 0.5, 0.0]])).tolist(), moved.count_nonzero().item()
        ([[True, True, True]], 2)
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        group_size: GroupSize = None,
        codebook: Literal["int", "nf4", "fp4"] = "int",
        head: bool = False,
        skip: Sequence[str] = (),
        merge_adapters: bool = True,
        store: Literal["device", "cpu"] = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(
            bits,
            group_size=group_size,
            codebook=codebook,
            head=head,
            skip=skip,
            merge_adapters=merge_adapters,
            store=store,
        )
        check_whole("seed", seed, least=0)
        self.seed = seed

    @override
    def drawn(self, generator: torch.Generator) -> RoundingNoise:
        """Noise of the same size, from another seed."""
        settings: dict[str, Any] = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return RoundingNoise(**{**settings, "seed": int(torch.randint(2**31, (), generator=generator))})

    @override
    def change_of(self, matrix: Matrix) -> Rounding:
        layout, shape = matrix.layout, matrix.tensor.shape
        # A weight that is computed is whole in each process, and must not be read while its rounding is in place.
        like = None if matrix.is_computed else matrix.tensor

        def noisy(weight: Tensor) -> Tensor:
            # Anew from its seed in each call: a weight that is computed gets the same noise in each forward pass.
            generator = torch.Generator(weight.device).manual_seed(hash_of(self.seed, *matrix.name.encode()))
            whole = torch.rand(shape, generator=generator, device=weight.device, dtype=torch.float64) - 0.5
            part = whole if like is None else local(sharded_like(whole, like))
            noise = layout.view(part).flatten(0, layout.stacked)
            return (weight + noise.reshape(weight.shape) * widths(weight, self.grid)).to(weight.dtype)

        return noisy
