"""Weights that are rounded for a while: in place, or, where a layer computes them, each time it has done so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor
from torch.nn.utils.parametrize import is_parametrized
from typing_extensions import override

from lightning_unlearn.engine import gathered, with_local
from lightning_unlearn.models.layers import Layout, Matrix
from lightning_unlearn.runtime import KeptTensors, local, uninterrupted

Rounding = Callable[[Tensor], Tensor]
"""From a weight, ``[out, ...]``, to one of the same shape."""


@contextmanager
def weights_kept(found: Sequence[Matrix], *, store: str) -> Iterator[None]:
    """Let weights that are parameters themselves be rounded until the block is left; then each is as it was, to the bit.

    Args:
        found: The weights. Those that are computed in each forward pass are never written to.
        store: ``"cpu"`` or ``"device"``, where the one copy of them is kept.
    """
    plain = {id(matrix.tensor): matrix for matrix in found if not matrix.is_computed}
    kept = KeptTensors([matrix.tensor for matrix in plain.values()], on_cpu=store == "cpu")
    try:
        yield
    finally:
        with uninterrupted(), editing():
            kept.put_back()
            for matrix, (weight, original) in zip(plain.values(), kept.pairs(), strict=True):
                # PEFT's layer around `nn.MultiheadAttention` puts new parameters in the place of the base's in a pass.
                if matrix.tensor is not weight:
                    local(matrix.tensor).copy_(original)
                elif not weight.is_inference():
                    # A graph from inside holds rounded weights: its backward pass must fail, not mix both.
                    increment_version(local(weight))


@contextmanager
def rounded_weight(matrix: Matrix, rounding: Rounding, *, adapters: Sequence[Any]) -> Iterator[None]:
    """Round a weight, inside of :func:`weights_kept`; afterwards adapters are as they were.

    Args:
        matrix: The weight. If it is computed in each forward pass, no parameter is touched: what is computed is rounded.
        rounding: What to do with each row of weights that belong to one output.
        adapters: Active adapters to merge before rounding, as in such a deployment: what is rounded is the sum.
    """
    with scales_kept(adapters):
        if matrix.is_computed:
            with _computed(matrix, rounding, adapters):
                yield
            return
        _round_plain_(matrix, rounding, adapters)
        yield


@contextmanager
def scales_kept(adapters: Sequence[Any]) -> Iterator[None]:
    """Afterwards the scale of each adapter is what it was."""
    scalings = [(adapter, dict(adapter.scaling)) for adapter in adapters]
    try:
        yield
    finally:
        with uninterrupted():
            for adapter, scaling in scalings:
                adapter.scaling.update(scaling)


def merged_rows(matrix: Matrix, adapters: Sequence[Any]) -> Tensor:
    """The whole weight with ``adapters`` merged into it, a copy, ``[out, ...]``. Collective under FSDP2."""
    with editing():
        weight = matrix.tensor.detach()
        part = local(weight).clone()
        for delta in added_by(adapters, weight):
            part.add_(delta)
        return matrix.layout.view(gathered(with_local(weight, part))).flatten(0, matrix.layout.stacked)


def _round_plain_(matrix: Matrix, rounding: Rounding, adapters: Sequence[Any]) -> None:
    weight = local(matrix.tensor)
    with editing():
        for delta in added_by(adapters, matrix.tensor):
            weight.add_(delta)
        silence_(adapters)
        _round_(weight, matrix.layout, rounding)


@contextmanager
def _computed(matrix: Matrix, rounding: Rounding, adapters: Sequence[Any]) -> Iterator[None]:
    module, name = matrix.module, matrix.storage.name
    with editing():
        step = _Rounded(matrix.layout, rounding, list(added_by(adapters, matrix.tensor)) if adapters else [])
        silence_(adapters)
    is_parametrization = is_parametrized(module, name)
    with _last_parametrization(module, name, step) if is_parametrization else _last_hook(module, name, step):
        yield


@contextmanager
def _last_parametrization(module: nn.Module, name: str, step: nn.Module) -> Iterator[None]:
    steps: Any = module.parametrizations[name]  # type: ignore[index]
    try:
        # Not by `register_parametrization`, which would set the parameters anew. It has no state, so there is no new key.
        steps.append(step)
        yield
    finally:
        with uninterrupted():
            if steps[-1] is step:  # not if Ctrl-C came before it was there
                del steps[-1]


@contextmanager
def _last_hook(module: nn.Module, name: str, step: nn.Module) -> Iterator[None]:
    # Pruning, and the old weight norm and spectral norm, set a plain attribute in a hook before each forward pass.
    def round_attribute(layer: nn.Module, _: Any) -> None:
        setattr(layer, name, step(getattr(layer, name)))

    attribute = getattr(module, name)
    handle = module.register_forward_pre_hook(round_attribute)  # the last one: after the one that computes the weight
    try:
        # Some read the weight without a forward pass of its layer, as `nn.MultiheadAttention` does with its `out_proj`.
        setattr(module, name, step(attribute))
        yield
    finally:
        with uninterrupted():
            handle.remove()
            setattr(module, name, attribute)


class _Rounded(nn.Module):
    """Rounds a weight. To gradients it is the identity: those of the rounded weight go on to what it is computed from."""

    def __init__(self, layout: Layout, rounding: Rounding, deltas: Sequence[Tensor]) -> None:
        super().__init__()
        self.layout, self.rounding, self.deltas = layout, rounding, deltas

    @override
    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            values = weight.clone()
            for delta in self.deltas:
                values.add_(delta)
            _round_(values, self.layout, self.rounding)
        return values + (weight - weight.detach())  # exact: zero is added


def _round_(weight: Tensor, layout: Layout, rounding: Rounding) -> None:
    """Round ``weight`` in place, with one row for each output; stacked matrices follow one another."""
    ordered = layout.view(weight)
    ordered.copy_(rounding(ordered.flatten(0, layout.stacked)).reshape(ordered.shape))


def added_by(adapters: Sequence[Any], weight: Tensor) -> Iterator[Tensor]:
    """What adapters add to ``weight`` in a forward pass; of a sharded weight, to the local shard."""
    for adapter in adapters:
        if adapter.merged or adapter.disable_adapters:
            continue
        for name in adapter.active_adapters:
            if name in adapter.scaling:
                delta = adapter.get_delta_weight(name)
                if isinstance(weight, DTensor):
                    delta = delta.redistribute(placements=weight.placements)
                yield local(delta)


def silence_(adapters: Sequence[Any]) -> None:
    """Let adapters that were merged add nothing more: a scale of zero."""
    for adapter in adapters:
        if not adapter.merged and not adapter.disable_adapters:
            adapter.scaling.update({name: 0.0 for name in adapter.active_adapters if name in adapter.scaling})


@contextmanager
def editing() -> Iterator[None]:
    """Weights may be written, and copies of them are ordinary tensors."""
    # Tensors made in inference mode (checks run in validation, too) could not be used outside of it.
    with torch.inference_mode(False), torch.no_grad():
        yield
