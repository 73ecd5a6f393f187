"""Weights that are computed from other parameters in each forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from typing_extensions import override

from lightning_unlearn.models.layers._storage import Storage, as_it_is
from lightning_unlearn.runtime import eval_mode


class Parametrized(Storage):
    """A weight with a ``torch.nn.utils.parametrize`` parametrization: weight norm, spectral norm, or a user's own."""

    @property
    def _list(self) -> Any:
        return self.module.parametrizations[self.name]  # type: ignore[index]

    @property
    def keeps_any_value(self) -> bool:  # type: ignore[override]
        """Only weight norm does: others allow matrices of a certain kind only."""
        return all(isinstance(step, _WeightNorm) for step in self._list)

    @override
    def parameters(self) -> list[Tensor]:
        return list(self._list.parameters(recurse=False))

    @override
    def read(self) -> Tensor:
        with eval_mode(self._list):  # in training mode, reading would update the vectors of spectral norm
            weight: Tensor = getattr(self.module, self.name)
        return weight

    @override
    def write_(self, value: Tensor) -> None:
        kept: Any = value
        for step in reversed(self._list):
            if not hasattr(step, "right_inverse"):
                raise NotImplementedError(
                    f"A parametrization that is written to should have a `right_inverse`. Found `{type(step).__name__}` of "
                    f"`{self.name}` without one. Remove it first: `torch.nn.utils.parametrize.remove_parametrizations`."
                )
            kept = step.right_inverse(kept)
        # In place: assigning to the weight, torch's own way, would give the parameters new memory.
        for parameter, part in zip(self.parameters(), [kept] if isinstance(kept, Tensor) else kept, strict=True):
            parameter.detach().copy_(part)


class WeightNormed(Storage):
    """A weight under the old ``torch.nn.utils.weight_norm``: a hook computes it before each forward pass."""

    @override
    def parameters(self) -> list[Tensor]:
        return [getattr(self.module, f"{self.name}_{part}") for part in "gv"]

    @override
    def read(self) -> Tensor:
        weight: Tensor = _hook(self.module, self.name).compute_weight(self.module)
        return weight

    @override
    def write_(self, value: Tensor) -> None:
        lengths, directions = self.parameters()
        # weight = length * direction / |direction|: with the value as direction, its own norms are the lengths.
        directions.detach().copy_(value)
        lengths.detach().copy_(torch.norm_except_dim(directions.detach(), 2, _hook(self.module, self.name).dim))


class Hooked(Storage):
    """A weight under ``torch.nn.utils.prune`` or the old ``spectral_norm``: a hook computes it from ``<name>_orig``."""

    keeps_any_value: ClassVar[bool] = False

    @override
    def parameters(self) -> list[Tensor]:
        return [getattr(self.module, f"{self.name}_orig")]

    @override
    def read(self) -> Tensor:
        hook = _hook(self.module, self.name)
        if isinstance(hook, SpectralNorm):
            # An iteration would change the module's buffers, and reading should change nothing.
            weight: Tensor = hook.compute_weight(self.module, do_power_iteration=False)
            return weight
        masked: Tensor = hook.apply_mask(self.module)
        return masked

    @override
    def write_(self, value: Tensor) -> None:
        self.parameters()[0].detach().copy_(value)


def storages(module: nn.Module) -> dict[str, Storage]:
    """All weights and biases of ``module`` itself, not of its children, by the name that its forward pass uses."""
    # Computed ones first: the parameters they are made of are not weights of their own.
    by_name: dict[str, Storage] = {}
    if is_parametrized(module):
        by_name |= {name: Parametrized(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    for hook in _hooks(module):
        name = _name_of(hook)
        by_name[name] = WeightNormed(module, name) if isinstance(hook, WeightNorm) else Hooked(module, name)
    computed = {p for storage in by_name.values() for p in storage.parameters()}
    for name, p in module._parameters.items():
        if p is not None and p not in computed:
            by_name[name] = as_it_is(module, name)
    return by_name


def _hooks(module: nn.Module) -> Iterator[Any]:
    kinds = WeightNorm | SpectralNorm | BasePruningMethod
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds))


def _hook(module: nn.Module, name: str) -> Any:
    return next(hook for hook in _hooks(module) if _name_of(hook) == name)


def _name_of(hook: Any) -> str:
    name: str = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
    return name
