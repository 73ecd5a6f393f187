from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.functional.modes import looking
from lightning_unlearn.functional.sharding import local, reshard
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import Readout
from lightning_unlearn.references._base import Reference


class FrozenCopy(Reference):
    """The original model is a copy of the weights that training will move, swapped in for one forward pass.

    Only trainable parameters and floating-point buffers are copied, so a network of which little is trained costs
    little; no second module exists, so it works under DDP and FSDP2 shard by shard.

    Args:
        on_cpu: Keep the copy in main memory; slower, but the device holds the weights only once.
    """

    def __init__(self, on_cpu: bool = False) -> None:
        self.on_cpu = on_cpu

    @override
    def attach(self, network: nn.Module) -> None:
        super().attach(network)
        with torch.inference_mode(False), torch.no_grad():
            self._copies = [(t, self._copy(local(t))) for t in _moving(network)]
        if not self._copies:
            raise ValueError(
                "`FrozenCopy` should be attached to a network with trainable parameters. Found none: is the network built "
                "later, in `configure_model`? Build it in `__init__`, or use LoRA with `AdapterDisabled()`."
            )

    @override
    def __call__(self, readout: Readout, batch: Any) -> Prediction:
        with self._swapped(), looking(self.network):
            return readout(self.network, batch)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", copy=True) if self.on_cpu else tensor.detach().clone()

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        # Values are exchanged in place: compiled graphs, tied weights and shards all stay valid.
        reshard(self.network)
        with torch.no_grad():
            current = [local(t).detach().clone() for t, _ in self._copies]
            for tensor, original in self._copies:
                local(tensor).copy_(original)
        try:
            yield
        finally:
            reshard(self.network)
            with torch.no_grad():
                for (tensor, _), now in zip(self._copies, current, strict=True):
                    local(tensor).copy_(now)


def _moving(network: nn.Module) -> list[Tensor]:
    buffers = [b for b in network.buffers() if b.is_floating_point()]
    return [*(p for p in network.parameters() if p.requires_grad), *buffers]
