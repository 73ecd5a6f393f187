from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Adapter(ABC):
    """Trains something small in place of the weights of a network: :class:`LoRA`, :class:`Experts`, :class:`TokenMixing`."""

    @abstractmethod
    def wrap(self, network: nn.Module) -> nn.Module:
        """Freeze ``network`` and put the adapter around its layers, in place; at first it adds nothing."""


def Adapted(network: nn.Module, adapter: Adapter) -> nn.Module:
    """Put an adapter around a network: a class in YAML, a function in Python.

    Args:
        network: Frozen, and changed in place.
        adapter: What is trained instead.

    Returns:
        The network with its adapter, which is all that can be trained.

    Example:
        >>> from lightning_unlearn.models import Experts
        >>> network = Adapted(nn.Sequential(nn.Linear(4, 3)), Experts(r=2))
        >>> [name for name, p in network.named_parameters() if p.requires_grad][:2]
        ['0.lora_A_forget', '0.lora_B_forget']
    """
    return adapter.wrap(network)
