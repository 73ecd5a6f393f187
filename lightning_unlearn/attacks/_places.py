"""Where an attacker's adapter sits in a network, and which share of the weights that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from lightning_unlearn.models.layers import (
    Matrix,
    adapters,
    covered_share,
    is_trained,
    name_fits,
    own_matrices,
    placed_matrices,
    plain_name,
    sizes,
)


@dataclass(frozen=True, eq=False)
class Place:
    """A weight matrix, and how something low-rank can be added to it without a change of the network.

    Args:
        matrix: The weight, of one of the layers that use it.
        way: ``"hook"``, if the layer is called with its inputs, and their product can be added to its outputs; ``"shift"``,
            if the weight itself has to be another; ``"none"`` if neither is possible.
    """

    matrix: Matrix
    way: Literal["hook", "shift", "none"]

    @property
    def is_reached(self) -> bool:
        """Whether something can be added."""
        return self.way != "none"

    @property
    def has_hook(self) -> bool:
        """Whether it is added to outputs, and not to the weight."""
        return self.way == "hook"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the whole weight, ``[stacked..., out, in, ...]``. Asked for once, before anything is added to the weight."""
        if self.has_hook:  # its weight may be packed, flattened or taken away
            inputs, outputs = sizes(self.matrix.module)
            return outputs, inputs
        return tuple(self.matrix.layout.view(torch.empty(self.matrix.tensor.shape, device="meta")).shape)

    @property
    def sizes(self) -> tuple[tuple[int, ...], int, int]:
        """How many matrices are stacked along which axes, and how many outputs and inputs each has."""
        stacked = self.matrix.layout.stacked
        return self.shape[:stacked], self.shape[stacked], prod(self.shape[stacked + 1 :])

    @property
    def device(self) -> Any:
        """Where the weight is."""
        return getattr(self.matrix.module, self.matrix.storage.name).device


def places(network: nn.Module) -> list[Place]:
    """Every matrix of ``network`` but embeddings, for each layer that uses it; of adapters only linear factors."""
    read, remade = set(_read_by_others(network)), set(_remade(network))
    found = (m for m in placed_matrices(network) if m.layout.kind != "embedding")
    mine = [m for m in found if m.factor_of is None or m.layout.kind == "linear"]
    return [Place(m, "none" if m.module in remade else _way(m, read)) for m in mine]


def adapted_share(network: nn.Module, layers: Sequence[str] | None = None) -> float:
    """The share of the weights of matrices, embeddings and adapters aside, that an adapter sits on; 1 if there are none.

    Of ``layers`` whose names these patterns fit, if they are given.
    It is 0 if FSDP1 has taken a weight away that would have to be another: how large it is is not known.

    Example:
        >>> adapted_share(nn.Sequential(nn.Conv1d(1, 3, 1), nn.Linear(3, 3)))
        1.0
    """
    found = [p for p in places(network) if _fits(p.matrix, layers)]
    if any(not p.is_reached and not p.matrix.parameters for p in found):
        return 0.0
    return covered_share(network, (p.matrix for p in found if p.is_reached), among=_own(network, layers))


def full_share(network: nn.Module, layers: Sequence[str] | None = None) -> float:
    """The share of them that full training reaches: what trains, and linear layers in few bits; 1 if there are none.

    Of ``layers``, as in :func:`adapted_share`.

    Example:
        >>> full_share(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1).requires_grad_(False)))
        0.75
    """
    own = _own(network, layers)
    unpacked = (p.matrix for p in places(network) if p.has_hook and p.matrix.is_low_bit and _fits(p.matrix, layers))
    return covered_share(network, [*filter(is_trained, own), *unpacked], among=own)


def _own(network: nn.Module, layers: Sequence[str] | None) -> list[Matrix]:
    return [matrix for matrix in own_matrices(network) if _fits(matrix, layers)]


def _fits(matrix: Matrix, layers: Sequence[str] | None) -> bool:
    return layers is None or name_fits(plain_name(matrix.name), layers)


def _way(matrix: Matrix, read: set[nn.Module]) -> Literal["hook", "shift", "none"]:
    if matrix.layout.kind == "linear" and matrix.module not in read:
        return "hook"
    # A compiled script reads its weights past Python. In few bits there is nothing to add to.
    if isinstance(matrix.module, torch.jit.ScriptModule) or matrix.is_low_bit or not matrix.is_whole:
        return "none"
    return "shift" if matrix.tensor.is_floating_point() else "none"


def _read_by_others(network: nn.Module) -> Iterator[nn.Module]:
    """Linear layers that are not always called, since the module around them reads their weight."""
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            yield from module.out_proj.modules()
        if hasattr(module, "A_log"):  # a state-space mixer, in which kernels take the weights of several layers at once
            yield from module.children()


def _remade(network: nn.Module) -> Iterator[nn.Module]:
    """Layers whose parameters are made anew in each forward pass, from what was read: by PEFT, of attention of torch."""
    for _, adapter in adapters(network):
        if isinstance(adapter.base_layer, nn.MultiheadAttention):
            yield from adapter.base_layer.modules()
