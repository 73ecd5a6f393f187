from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import Readout


class Selector(ABC):
    """Scores weights by how much they matter for what must go: higher means more.

    It only scores. A :class:`Choice` makes a mask of the scores, and :class:`TrainOnly` keeps steps within it.

    Attributes:
        needs_forget: Whether :meth:`scores` reads forget data.
        needs_retain: Whether it reads retain data.

    Example:
        >>> class Largest(Selector):  # by size alone, without any data
        ...     def scores(self, network, *, forget=(), retain=(), readout=None, engine=None):
        ...         return {name: p.detach().abs() for name, p in selectable(network).items()}
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, -3.0]]))
        >>> Largest().scores(layer)
        {'weight': tensor([[1., 3.]])}
    """

    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = False

    @abstractmethod
    def scores(
        self,
        network: nn.Module,
        *,
        forget: Sequence[Any] = (),
        retain: Sequence[Any] = (),
        readout: Readout | None = None,
        engine: GradientEngine | None = None,
    ) -> dict[str, Tensor]:
        """Score the weights of ``network``, and leave it as it was.

        Args:
            network: Scored as it is.
            forget: Micro-batches of what must go, on the network's device; empty if not needed.
            retain: Micro-batches of what must stay.
            readout: How to run the network on them; ``None`` if no data is needed.
            engine: How to take gradients (:meth:`GradientEngine.row`) and run passes under the strategy in use. ``None``
                for plain autograd in one process.

        Returns:
            Scores by name, as in ``network.named_parameters()``: a scalar for every parameter, or for every parameter a
            tensor of its shape (sharded as it is). The same in every process. A parameter that is left out is not chosen.
        """


def selectable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that can be trained, by name; shared ones once.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(1, 1)
        >>> _ = layer.bias.requires_grad_(False)
        >>> list(selectable(layer))
        ['weight']
    """
    return {name: p for name, p in network.named_parameters() if p.requires_grad and p.is_floating_point()}
