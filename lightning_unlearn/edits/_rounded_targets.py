"""The weights that an edit of rounded networks works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.attacks import Quantize
from lightning_unlearn.engine import with_local
from lightning_unlearn.functional.buckets import Flips, flips
from lightning_unlearn.functional.grids import Grid
from lightning_unlearn.models.layers import Matrix
from lightning_unlearn.runtime import local


@dataclass(frozen=True)
class Target:
    """A weight, and the grids that it is rounded to.

    Args:
        name: As in ``network.named_parameters()``.
        param: The weight.
        matrix: How it is laid out.
        grids: Of all attacks that round it.
    """

    name: str
    param: nn.Parameter
    matrix: Matrix
    grids: list[Grid]

    def rows(self, tensor: Tensor) -> Tensor:
        """This process's part of ``tensor``, which is laid out as the parameter, as it is rounded: ``[out, ...]``."""
        layout = self.matrix.layout
        return layout.view(local(tensor.detach())).flatten(0, layout.stacked)

    def whole(self, rows: Tensor) -> Tensor:
        """The inverse: laid out, and sharded, as the parameter."""
        part = torch.empty_like(local(self.param), dtype=rows.dtype)
        ordered = self.matrix.layout.view(part)
        ordered.copy_(rows.reshape(ordered.shape))
        return with_local(self.param, part)

    def flips(self, original: Tensor, pull: Tensor, margin: float) -> Flips:
        """The way of each weight of the original into its next bucket."""
        return flips(self.rows(original), self.rows(pull), self.grids, margin)


def targets_of(network: nn.Module, against: Sequence[Quantize]) -> list[Target]:
    """The trainable weights that some attack of ``against`` rounds, with the grids of all that do."""
    names = {id(p): name for name, p in network.named_parameters()}
    found: dict[str, Target] = {}
    for attack in against:
        for matrix in attack.matrices(network):
            _refuse_not_plain(matrix)
            param: Any = matrix.tensor
            if param.requires_grad:
                target = found.setdefault(names[id(param)], Target(names[id(param)], param, matrix, []))
                target.grids.append(attack.grid)
    if not found:
        raise ValueError(
            "`BucketMargin` should find trainable weights that are rounded. Found that all of them are frozen."
        )
    return list(found.values())


def _refuse_not_plain(matrix: Matrix) -> None:
    if matrix.is_computed or matrix.adapters:
        what = "computed from others in each forward pass" if matrix.is_computed else "under an adapter"
        raise ValueError(
            f"`BucketMargin` should edit weights as they are rounded. Found that `{matrix.name}` is {what}. Merge the "
            "adapter or the parametrization first, or name the layer in `skip` of each `Quantize`."
        )
