from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn

from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout


class Reference(ABC):
    """Where the original model's view of a batch comes from, after training has moved the model away.

    Attributes:
        gives_logits: Whether it gives the whole distribution, or only the likelihood of the labels.
        needs_sweep: Whether :meth:`sweep` should be called, with all forget data, before the first step.
    """

    gives_logits: ClassVar[bool] = True
    needs_sweep: ClassVar[bool] = False

    def attach(self, network: nn.Module) -> None:
        """Remember the network while it is still the original. Called before any checkpoint is restored."""
        self.network = network

    def sweep(self, readout: Readout, batches: Iterable[Any]) -> None:
        """Read all forget data once, before the first step."""

    @abstractmethod
    def __call__(self, readout: Readout, batch: Any) -> Likelihood:
        """The original model's prediction of ``batch``, without a graph."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for a resumed run to know the original: tensors and primitives only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
