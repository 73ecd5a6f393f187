"""Which weights of a live network a low-bit deployment stores in few bits."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A layer with a weight matrix.

    Args:
        name: Where it sits in the network.
        module: A ``nn.Linear``, a ``nn.Conv2d`` or the ``Conv1D`` of transformers.
        adapters: The peft layers around it, inner first.
    """

    name: str
    module: nn.Module
    adapters: tuple[Any, ...] = ()

    @property
    def weight(self) -> Any:
        """The parameter; not a tensor where a sharding strategy took it away."""
        return getattr(self.module, "weight", None)

    @property
    def transposed(self) -> bool:
        """Whether inputs come first in the weight."""
        return _is_conv1d(self.module)


def deployed_layers(network: nn.Module, *, skip: Sequence[str], head: bool) -> tuple[list[Layer], Counter[str]]:
    """Find the layers that quantised loaders convert, each weight once.

    Args:
        network: Where to look, itself included.
        skip: Names to leave out, as ``fnmatch`` patterns of a layer's full name or of any part between dots.
        head: Whether the output head belongs to them.

    Returns:
        The layers, and how many others were left out for which reason.
    """
    around = {id(m.base_layer): m for m in network.modules() if _is_adapter(m)}
    not_ours = {id(m) for adapter in around.values() for m in _factors(adapter)}
    heads = set() if head else {id(m) for m in _heads(network)}
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    found: dict[int, Layer] = {}
    left_out: Counter[str] = Counter()
    for name, module in network.named_modules():
        layer = Layer(name, module, tuple(_adapters(module, around)))
        if not isinstance(module, nn.Linear | nn.Conv2d) and not _is_conv1d(module):
            continue
        if id(module) in not_ours:
            left_out["an adapter's"] += 1
        elif id(module) in heads:
            left_out["the output head"] += 1
        elif id(layer.weight) in embeddings:
            left_out["tied to an embedding"] += 1
        elif any(fnmatch(part, pattern) for pattern in skip for part in (name, *name.split("."))):
            left_out["in `skip`"] += 1
        elif is_low_bit(layer.weight):
            left_out["low-bit already"] += 1
        else:
            found.setdefault(id(layer.weight), layer)
    return list(found.values()), left_out


def is_low_bit(weight: Any) -> bool:
    """Whether ``weight`` is stored in few bits already, as by bitsandbytes."""
    if not isinstance(weight, Tensor):
        return False
    # By name: 4-bit weights may be packed into a floating dtype, and bitsandbytes is an optional dependency.
    return type(weight).__name__ in ("Params4bit", "Int8Params") or not weight.is_floating_point()


def _is_conv1d(module: nn.Module) -> bool:
    # There can be no instance before transformers was imported, which is slow.
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and isinstance(module, loaded.Conv1D)


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters")


def _adapters(module: nn.Module, around: dict[int, nn.Module]) -> Iterator[nn.Module]:
    while id(module) in around:
        module = around[id(module)]
        yield module


def _factors(adapter: nn.Module) -> Iterator[nn.Module]:
    for name, child in adapter.named_children():
        if name != "base_layer":
            yield from child.modules()


def _heads(network: nn.Module) -> Iterator[nn.Module]:
    for name, module in network.named_modules():
        find = getattr(module, "get_output_embeddings", None)
        head = find() if find is not None else None
        if head is not None:
            yield from head.modules()
        if name.split(".")[-1] == "lm_head":
            yield from module.modules()
