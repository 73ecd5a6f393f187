"""Weights to which something is added each time that they are read, and nothing of the network changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.utils.parametrize import is_parametrized
from typing_extensions import override

from lightning_unlearn.runtime import uninterrupted

Shift = Callable[[], Tensor]
"""What to add to a weight, in the weight's own layout; computed anew each time, so that gradients go through it."""

_FLAT = ("_flat_weights", "_flat_weight_refs")
"""Lists in which a recurrent layer keeps the weights that it has read."""


@contextmanager
def shifted_weights(module: nn.Module, shifts: Mapping[str, Shift]) -> Iterator[None]:
    """Let ``module``, and whoever reads its weights, compute with the sum of weight and shift until the block is left.

    Parameters, ``.grad``, buffers, keys of the state and the module tree stay the same objects: for a while the module is of
    a subclass of its class, in which the weight is a property. Torch's ``parametrize`` does that, too, but puts the
    parameters elsewhere.

    Args:
        module: It may be sharded by FSDP2: in its forward pass its weights are whole.
        shifts: By the name of the weight: a parameter, or an attribute that is computed from others.

    Example:
        >>> layer = nn.GRUCell(1, 1, bias=False)
        >>> with shifted_weights(layer, {"weight_hh": lambda: torch.ones(3, 1)}):
        ...     bool((layer.weight_hh == dict(layer.named_parameters())["weight_hh"] + 1).all())
        True
    """
    original = type(module)
    # Old weight norm, old spectral norm and pruning keep the weight as an attribute.
    attributes = {name: vars(module)[name] for name in (*_FLAT, *shifts) if name in vars(module)}
    try:
        module.__class__ = _shifted_class(original, shifts)
        vars(module).update({name: list(attributes[name]) for name in _FLAT if name in attributes})
        yield
    finally:
        with uninterrupted():
            module.__class__ = original
            vars(module).update(attributes)


@contextmanager
def shifted_in_passes(module: nn.Module, shifts: Mapping[str, Shift]) -> Iterator[None]:
    """As :func:`shifted_weights`, but only while ``module`` runs: for modules whose class others change around a pass.

    PEFT's adapters of bare parameters parametrize the module in each forward pass: the shift comes on top of theirs.
    """
    stacks: list[ExitStack] = []

    def enter(layer: nn.Module, _: Any) -> None:
        stacks.append(ExitStack())
        for name, shift in shifts.items():
            here = _last_step(layer, name, shift) if is_parametrized(layer, name) else None
            stacks[-1].enter_context(shifted_weights(layer, {name: shift}) if here is None else here)

    def leave(*_: Any) -> None:
        stacks.pop().close()

    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        with uninterrupted():
            for handle in handles:
                handle.remove()


@contextmanager
def _last_step(module: nn.Module, name: str, shift: Shift) -> Iterator[None]:
    steps: Any = module.parametrizations[name]  # type: ignore[index]
    step = _Shifted(shift)
    steps.append(step)
    try:
        yield
    finally:
        with uninterrupted():
            del steps[list(steps).index(step)]


class _Shifted(nn.Module):
    """A step of a parametrization."""

    def __init__(self, shift: Shift) -> None:
        super().__init__()
        self.shift = shift

    @override
    def forward(self, weight: Tensor) -> Tensor:
        return _sum(weight, self.shift)


def _shifted_class(original: type, shifts: Mapping[str, Shift]) -> type:
    # The same name: some look at it to find out what a module is.
    namespace: dict[str, Any] = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    made = type(original.__name__, (original,), namespace)
    for name, shift in shifts.items():
        setattr(made, name, _property(made, name, shift))
    return made


def _property(made: type, name: str, shift: Shift) -> property:
    def get(module: Any) -> Tensor:
        for kept in (module._parameters, vars(module)):
            if name in kept:
                return _sum(kept[name], shift)
        return _sum(getattr(super(made, module), name), shift)  # a parametrization is a property of the class

    # Hooks of old weight norm, old spectral norm and pruning set an attribute before each forward pass.
    def set_(module: Any, value: Any) -> None:
        vars(module)[name] = value

    def delete(module: Any) -> None:
        del vars(module)[name]

    return property(get, set_, delete)


def _sum(weight: Tensor, shift: Shift) -> Tensor:
    """In float32 at least, also under autocast; rounded once, to what the layer computes with."""
    with torch.autocast(weight.device.type, enabled=False):
        added = shift()
        if isinstance(weight, DTensor):  # of tensor parallelism: within a forward pass FSDP2 has plain tensors
            mesh = weight.device_mesh
            whole = DTensor.from_local(added, mesh, [Replicate()] * mesh.ndim, run_check=False)
            added = whole.redistribute(mesh, weight.placements)
        return (weight + added).to(weight.dtype)
