from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_SAVED = re.compile(r"\.modules_to_save\.[^.]+\.")


@dataclass(frozen=True, eq=False)
class LowRankFactors:
    """What an active, plain LoRA adapter adds to a layer: ``second(first(x))``, scaled.

    Args:
        name: Of the first factor, in the network.
        adapter: The peft layer around the base layer.
        first: ``lora_A``, to few dimensions.
        second: ``lora_B``, back to the outputs.
    """

    name: str
    adapter: nn.Module
    first: nn.Module
    second: nn.Module


def adapters(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """The peft layers in ``network``, with their names; the layer inside is ``base_layer``."""
    return ((name, m) for name, m in network.named_modules() if _is_adapter(m))


def adapters_around(network: nn.Module) -> dict[nn.Module, tuple[Any, ...]]:
    """For each layer that has some, the peft layers around it, inner first."""
    around: dict[nn.Module, Any] = {m.base_layer: m for _, m in adapters(network)}
    return {base: tuple(_outwards(base, around)) for base in around}


def factor_modules(network: nn.Module) -> dict[nn.Module, Any]:
    """The modules that belong to adapters rather than to the network, and the peft layer each belongs to."""
    return {m: adapter for _, adapter in adapters(network) for m in _factors(adapter)}


def replaced_modules(network: nn.Module) -> Iterator[nn.Module]:
    """The modules that are not used, since a trained copy stands in for them (``modules_to_save``)."""
    for module in network.modules():
        wrapper: Any = module
        is_wrapper = hasattr(module, "modules_to_save") and hasattr(module, "original_module")
        if is_wrapper and not wrapper.disable_adapters and set(wrapper.active_adapters) & set(wrapper.modules_to_save):
            yield from wrapper.original_module.modules()


def low_rank_factors(network: nn.Module) -> Iterator[LowRankFactors]:
    """The factors of active LoRA adapters whose contribution is a product of two layers, and nothing more."""
    for name, adapter in adapters(network):
        for key in adapter.active_adapters:
            if key in getattr(adapter, "lora_A", ()) and not _is_variant(adapter, key):
                yield LowRankFactors(f"{name}.lora_A.{key}", adapter, adapter.lora_A[key], adapter.lora_B[key])


def only_adds(adapter: Any) -> bool:
    """Whether the active adapters of a peft layer only add to its weight, as plain LoRA does: no DoRA, no bias."""
    additive = hasattr(adapter, "get_delta_weight") and isinstance(getattr(adapter, "scaling", None), dict)
    biased = getattr(adapter, "lora_bias", {})
    return additive and not any(_is_variant(adapter, key) or biased.get(key) for key in adapter.active_adapters)


def in_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to a LoRA adapter, or to a trained copy of a module (``modules_to_save``).

    Example:
        >>> in_adapter("q_proj.lora_A.default.weight"), in_adapter("q_proj.base_layer.weight")
        (True, False)
    """
    return "lora_" in name or "modules_to_save" in name


def original_name(name: str) -> str:
    """The name of the original of a parameter in a trained copy (``modules_to_save``); other names stay as they are.

    Example:
        >>> original_name("score.modules_to_save.default.weight")
        'score.original_module.weight'
    """
    return _SAVED.sub(".original_module.", name)


def starts_at_zero(name: str) -> bool:
    """Whether a parameter of this name is the LoRA factor that is zero at first, so that nothing is added.

    Example:
        >>> starts_at_zero("q_proj.lora_A.default.weight"), starts_at_zero("q_proj.lora_B.default.weight")
        (False, True)
    """
    # PEFT starts a linear layer's second factor at zero, but an embedding's first.
    return "lora_B" in name or "lora_embedding_A" in name


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "active_adapters")


def _outwards(module: nn.Module, around: dict[nn.Module, Any]) -> Iterator[Any]:
    while module in around:
        module = around[module]
        yield module


def _factors(adapter: nn.Module) -> Iterator[nn.Module]:
    for name, child in adapter.named_children():
        if name != "base_layer":
            yield from child.modules()


def _is_variant(adapter: Any, key: str) -> bool:
    """Whether an adapter is more than a product of two factors, as DoRA is, which also rescales the base layer."""
    return key in getattr(adapter, "lora_variant", {}) or bool(getattr(adapter, "use_dora", {}).get(key))
