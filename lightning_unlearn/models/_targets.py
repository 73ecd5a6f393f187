from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Targets(ABC):
    """Chooses the layers that get an adapter, by looking at the network: as ``target_modules`` of :class:`LoRA`."""

    @abstractmethod
    def names(self, network: nn.Module) -> list[str]:
        """Full names of layers, at least one."""
