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
    """A trained weight matrix, and where its inputs are seen.

    With a trained bias, the two are one matrix, whose last input is the constant 1.

    Args:
        name: Where it sits in the module.
        module: What is called with its inputs: the layer itself, or the peft layer around it, before its dropout.
        weight: ``[out, in]``, or ``[in, out]`` if ``transposed``.
        bias: ``[out]``, if it is trained.
        transposed: Whether inputs come first in the weight.
        outer: The second factor of the adapter, where this is the first. It acts on the first one's outputs only.
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
        """What the matrix is applied to, ``[n, d]`` float64."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).double()
        return rows if self.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)

    def matrix(self, parts: Sequence[Tensor] | None = None) -> Tensor:
        """The rows that this process holds of the matrix, ``[n, d]`` float64; or those of a gradient of its parts."""
        weight, *bias = [local(p).detach().double() for p in (self.parts if parts is None else parts)]
        weight = weight.T if self.transposed else weight
        return torch.cat([weight, bias[0][:, None]], dim=1) if bias else weight

    def apart(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of :meth:`matrix`."""
        inputs = matrix.shape[1] - len(self.parts) + 1
        weight = matrix[:, :inputs].T if self.transposed else matrix[:, :inputs]
        return [weight, *matrix[:, inputs:].unbind(1)]

    def write_(self, matrix: Tensor) -> None:
        """Set the parameters; float64 is rounded once."""
        for p, value in zip(self.parts, self.apart(matrix), strict=True):
            local(p).detach().copy_(value)

    def refuse_sharded_inputs(self) -> None:
        """Rows may be on several processes, but each of them whole."""
        rows = 1 if self.transposed else 0
        placements = self.weight.placements if isinstance(self.weight, DTensor) else ()
        held = [local(p).shape[rows if p is self.weight else 0] for p in self.parts]
        # `is_shard(rows)` would miss the shards of shards that tensor parallelism with FSDP makes: another class.
        if any(not p.is_replicate() and getattr(p, "dim", None) != rows for p in placements) or len({*held}) > 1:
            raise NotImplementedError(
                f"`{self.name}` should be sharded over its outputs, with its bias, if at all: what it does to an input is "
                f"then known where it is. Found `placements = {placements}` of its weight, {tuple(self.weight.shape)}. Use "
                "`fully_shard` with `Shard(0)`, its default (`Shard(1)` for the `Conv1D` of transformers), or leave the "
                "layer out by `layers`."
            )


def input_layers(module: nn.Module, trained: Sequence[Tensor], layers: Sequence[str] | None = None) -> list[InputLayer]:
    """Find the layers that can be protected: ``nn.Linear``, the ``Conv1D`` of transformers, and LoRA's first factors.

    Left out are layers whose weight is not trained, and those that share it with another module, as a head that is tied
    to an embedding does: a step would change what the other module does, too, and its inputs are not protected.

    Args:
        module: Where to look.
        trained: The parameters that steps change.
        layers: Which ones, as ``fnmatch`` patterns of a layer's full name or of any part between dots; ``None`` for all.

    Raises:
        ValueError: If there is none, or none fits one of the patterns.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> [layer.name for layer in input_layers(network, list(network.parameters()))]
        ['0', '2']
    """
    owners = Counter(id(p) for m in module.modules() for p in m._parameters.values() if p is not None)
    own = {id(p) for p in trained if owners[id(p)] == 1}
    found = [*_plain(module, own), *_first_factors(module, own)]
    names = ", ".join(f"`{layer.name}`" for layer in found[:20]) or "none"
    if not found:
        raise ValueError(
            "There should be a layer to protect: a trained `nn.Linear`, `Conv1D` of transformers, or LoRA around one, whose "
            f"weight is not shared with another module. Found none in `{type(module).__name__}`."
        )
    for pattern in layers or ():
        if not any(name_fits(layer.name, [pattern]) for layer in found):
            raise ValueError(
                "Each of `layers` should fit the name of a trained linear layer, or a part of it. Found none for "
                f"{pattern!r}. There are {names}."
            )
    return [x for x in found if layers is None or name_fits(x.name, layers)]


def _plain(module: nn.Module, own: set[int]) -> Iterator[InputLayer]:
    factors = factor_modules(module)
    for name, m in module.named_modules():
        # A weight that is computed, as weight norm does, is no parameter, and so not among our own.
        if is_linear(m) and m not in factors and id(m.weight) in own:
            weight, bias = cast(Tensor, m.weight), cast("Tensor | None", m.bias)
            yield InputLayer(name, m, weight, bias if id(bias) in own else None, is_transposed(m))


def _first_factors(module: nn.Module, own: set[int]) -> Iterator[InputLayer]:
    for pair in low_rank_factors(module):
        if is_linear(pair.first) and id(pair.first.weight) in own:
            yield InputLayer(
                pair.name, pair.adapter, cast(Tensor, pair.first.weight), outer=cast(Tensor, pair.second.weight)
            )
