from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference
from lightning_unlearn.runtime import eval_without_grad, local, reshard, uninterrupted


class FrozenCopy(Reference):
    """The original model is a copy of the weights that training changes, swapped in for one forward pass.

    Only trainable parameters and floating-point buffers are copied, so if little is trained, the copy is small. There is
    no second module: the same network runs with other values, so it works under DDP, and under FSDP2 shard by shard.

    Args:
        on_cpu: Keep the copy in main memory; slower, but the device holds the weights only once.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        self.on_cpu = on_cpu

    @override
    def attach(self, network: nn.Module) -> None:
        super().attach(network)
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._originals = list(_moving(network, self.on_cpu))
        if not any(isinstance(original.tensor(), nn.Parameter) for original in self._originals):
            raise ValueError(
                "`FrozenCopy` should be attached to a network with trainable parameters. Found none: is the network built "
                "later, in `configure_model`? Build it in `__init__`, or use LoRA with `AdapterDisabled()`."
            )

    @override
    def __call__(self, readout: Readout, batch: Any) -> Prediction:
        # One forward pass is short enough to wait for: Ctrl-C inside would leave the fit with the original's weights.
        with uninterrupted(), self._swapped(), eval_without_grad(self.network):
            return readout(self.network, batch)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        # Values are exchanged in place: compiled graphs, tied weights and shards all stay valid.
        # Resharded first: a weight that FSDP2 still holds gathered would hide what is written into its shards.
        reshard(self.network)
        with torch.no_grad():
            current = [original.now().clone() for original in self._originals]
        try:
            with torch.no_grad():
                for original, now in zip(self._originals, current, strict=True):
                    if not self.on_cpu:  # Lightning may have moved the network to its device since `attach`
                        original.value = original.value.to(now.device)
                    original.now().copy_(original.value)
            yield
        finally:
            reshard(self.network)
            with torch.no_grad():
                for original, now in zip(self._originals, current, strict=True):
                    original.now().copy_(now)


@dataclass
class _Original:
    """What a parameter or buffer held. Found by module and name, since moving a module replaces its buffers."""

    module: nn.Module
    name: str
    value: Tensor

    def tensor(self) -> Tensor:
        tensor: Tensor = getattr(self.module, self.name)
        return tensor

    def now(self) -> Tensor:
        # `.data` does not raise the version counter. A graph that saved this tensor would otherwise refuse its backward
        # pass, although the values are back in place by then.
        return local(self.tensor()).data


def _moving(network: nn.Module, on_cpu: bool) -> Iterator[_Original]:
    seen: set[int] = set()  # tied weights are copied once
    for module in network.modules():
        buffers = {n: b for n, b in module._buffers.items() if b is not None and b.is_floating_point()}
        params = {n: p for n, p in module._parameters.items() if p is not None and p.requires_grad}
        for name, tensor in {**params, **buffers}.items():
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            held = local(tensor).detach()
            yield _Original(module, name, held.to("cpu", copy=True) if on_cpu else held.clone())
