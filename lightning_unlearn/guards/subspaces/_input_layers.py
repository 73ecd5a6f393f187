from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_unlearn.models.layers import factor_modules, is_linear, is_transposed, low_rank_factors, name_fits
from lightning_unlearn.runtime import local


@dataclass(frozen=True, eq=False)
class InputLayer:
    """A trained weight matrix, and the module whose inputs it is applied to.

    A trained bias is the matrix's last column, for an input that is always 1.

    Args:
        name: Full name in the module.
        module: The module that is called with the inputs: the layer itself, or the peft layer around it, whose input has
            not passed LoRA's dropout yet.
        weight: ``[out, in]``, or ``[in, out]`` if ``transposed``.
        bias: ``[out]``, if it is trained.
        transposed: Whether inputs come first in the weight.
        outer: If this is the first factor of an adapter, the second one. It only sees outputs of the first.
    """

    name: str
    module: nn.Module
    weight: Tensor
    bias: Tensor | None = None
    transposed: bool = False
    outer: Tensor | None = None

    @property
    def parts(self) -> list[Tensor]:
        """The parameters it is made of."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def augmented(self, inputs: Tensor) -> Tensor:
        """Inputs as rows, with the constant 1 of the bias, ``[n, d]`` float64."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).double()
        return rows if self.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)

    def matrix(self, parts: Sequence[Tensor] | None = None) -> Tensor:
        """The rows of the matrix that this process holds, ``[n, d]`` float64; or those of a gradient, given by ``parts``."""
        # Float64: the change of a step is a difference of nearly equal weights, and is projected before it is rounded.
        weight, *bias = [local(p).detach().double() for p in (self.parts if parts is None else parts)]
        weight = weight.T if self.transposed else weight
        return torch.cat([weight, bias[0][:, None]], dim=1) if bias else weight

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Split a matrix into weight and bias: the inverse of :meth:`matrix`."""
        inputs = matrix.shape[1] - len(self.parts) + 1
        weight = matrix[:, :inputs].T if self.transposed else matrix[:, :inputs]
        return [weight, *matrix[:, inputs:].unbind(1)]

    def write_(self, matrix: Tensor) -> None:
        """Set the parameters. This is the only place where float64 is rounded."""
        for p, value in zip(self.parts, self.split(matrix), strict=True):
            local(p).detach().copy_(value)

    def refuse_sharded_inputs(self) -> None:
        """Refuse shards that cut a row: a projection acts on whole rows. Rows may be spread over processes."""
        rows = 1 if self.transposed else 0
        placements = self.weight.placements if isinstance(self.weight, DTensor) else ()
        held = [local(p).shape[rows if p is self.weight else 0] for p in self.parts]
        # Not `is_shard(rows)`: tensor parallelism with FSDP makes strided shards, which are of another class.
        if any(not p.is_replicate() and getattr(p, "dim", None) != rows for p in placements) or len({*held}) > 1:
            raise NotImplementedError(
                f"`{self.name}` should be sharded over its outputs only, and its bias likewise, so that each process holds "
                f"whole rows. Found `placements = {placements}` of its weight, {tuple(self.weight.shape)}. Use "
                "`fully_shard` with `Shard(0)`, its default (`Shard(1)` for the `Conv1D` of transformers), or leave the "
                "layer out by `layers`."
            )


def input_layers(module: nn.Module, trained: Sequence[Tensor], layers: Sequence[str] | None = None) -> list[InputLayer]:
    """Find the layers that can be protected: ``nn.Linear``, the ``Conv1D`` of transformers, and LoRA's first factors.

    Left out are layers whose weight is not trained. Left out too are layers that share their weight with another module, as
    a head tied to an embedding does: the other module's inputs would not be protected.

    Args:
        module: The module to search.
        trained: The parameters that steps change.
        layers: Names, as ``fnmatch`` patterns of a layer's full name or of any part between dots; ``None`` for all.

    Raises:
        ValueError: If there is no such layer, or a pattern fits none.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> [layer.name for layer in input_layers(network, list(network.parameters()))]
        ['0', '2']
    """
    # A shared weight appears under several modules; a trained one that appears once is the layer's own.
    owners = Counter(id(p) for m in module.modules() for p in m._parameters.values() if p is not None)
    own = {id(p) for p in trained if owners[id(p)] == 1}
    candidates = [*_plain(module, own), *_first_factors(module, own)]
    names = ", ".join(f"`{layer.name}`" for layer in candidates[:20]) or "none"
    if not candidates:
        raise ValueError(
            "There should be a layer to protect: a trained `nn.Linear`, `Conv1D` of transformers, or LoRA around one, whose "
            f"weight is not shared with another module. Found none in `{type(module).__name__}`."
        )
    for pattern in layers or ():
        if not any(name_fits(layer.name, [pattern]) for layer in candidates):
            raise ValueError(
                "Each of `layers` should fit the name of a trained linear layer, or a part of it. Found none for "
                f"{pattern!r}. There are {names}."
            )
    return [layer for layer in candidates if layers is None or name_fits(layer.name, layers)]


def _plain(module: nn.Module, own: set[int]) -> Iterator[InputLayer]:
    factors = factor_modules(module)
    for name, m in module.named_modules():
        # A weight that is computed in each pass, as with weight norm, is no parameter, so its `id` is not in `own`.
        if is_linear(m) and m not in factors and id(m.weight) in own:
            weight, bias = cast(Tensor, m.weight), cast("Tensor | None", m.bias)
            yield InputLayer(name, m, weight, bias if id(bias) in own else None, is_transposed(m))


def _first_factors(module: nn.Module, own: set[int]) -> Iterator[InputLayer]:
    for pair in low_rank_factors(module):
        if is_linear(pair.first) and id(pair.first.weight) in own:
            yield InputLayer(
                pair.name, pair.adapter, cast(Tensor, pair.first.weight), outer=cast(Tensor, pair.second.weight)
            )
