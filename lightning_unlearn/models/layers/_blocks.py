from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lightning_unlearn.models.layers._names import WRAPPERS

_WRAPPERS = (*WRAPPERS, "base_layer")


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The repeated layers of a deep network, in order, by name.

    Candidates are the outermost ``nn.ModuleList`` and ``nn.Sequential`` whose modules are of one class, or of classes with
    a common base. The class that holds most of the weights is taken: the layers of a Transformer (both stacks of an
    encoder-decoder, one after the other), the blocks of all stages of a ResNet. Lists inside others, such as the experts
    of a layer, are ignored. Wrappers of PEFT, ``torch.compile``, FSDP1 and checkpointing change names only.

    Returns:
        Nothing, if there is no repetition.

    Example:
        >>> network = nn.Sequential(nn.Embedding(5, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        >>> list(blocks(network))
        ['1.0', '1.1']
    """
    by_class: dict[type, dict[str, nn.Module]] = {}
    for name, stack, kind in _stacks(network, ""):
        by_class.setdefault(kind, {}).update({f"{name}{child}": module for child, module in stack.named_children()})
    return max(by_class.values(), key=_weights, default={})


def _stacks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, type]]:
    """Stacks of like modules that are not inside another one."""
    kind = _common_class(module) if _is_stack(module) else None
    if kind is not None:
        yield name, module, kind
        return
    for child_name, child in module.named_children():
        yield from _stacks(child, f"{name}{child_name}.")


def _is_stack(module: nn.Module) -> bool:
    # A `Sequential` of one module may be a whole network; a `ModuleList` of one is a network of one layer.
    return isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and len(module) > 1)


def _common_class(stack: nn.Module) -> type | None:
    """The most specific class, below ``nn.Module``, that all modules of a stack share; ``None`` if they hold no weights."""
    kinds = [_class(child) for child in stack.children()]
    if not kinds or not _weights(dict(stack.named_children())):
        return None
    bases = kinds[0].__mro__[: kinds[0].__mro__.index(nn.Module)]
    return next((base for base in bases if all(issubclass(kind, base) for kind in kinds)), None)


def _class(module: Any) -> type:
    # Wrappers replace some layers only (PEFT, checkpointing): compare what is inside.
    while wrapper := next((w for w in _WRAPPERS if hasattr(module, w)), None):
        module = getattr(module, wrapper)
    return type_before_parametrizations(module)


def _weights(stack: dict[str, nn.Module]) -> int:
    return sum(p.numel() for p in {p for module in stack.values() for p in module.parameters()})  # shared ones once
