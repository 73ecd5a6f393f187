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

    def start_anew(self) -> None:
        """A fit begins: forget what belongs to an earlier one."""

    def attach(self, network: nn.Module) -> None:
        """Remember the network while it is the original.

        A fit calls this before a checkpoint is restored, in case it is one of an interrupted run. If it is not, the fit
        calls it again when training starts: then the network is what the fit really starts from.
        """
        self.network = network

    def sweep(self, readout: Readout, batches: Iterable[Any]) -> None:
        """Read all forget data once, before the first step."""

    def join(self) -> None:
        """A step is next that does not ask for the original: see what it may move, and earlier steps did not."""

    def keep(self, parameter: nn.Parameter) -> None:
        """Something other than a step, such as an edit, is about to change ``parameter``, frozen or not.

        Collective under FSDP2.
        """

    @abstractmethod
    def __call__(self, readout: Readout, batch: Any) -> Likelihood:
        """The original model's prediction of ``batch``, without a graph."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for a resumed run to know the original: tensors and primitives only.

        Collective: every rank must call it.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, after :meth:`attach`. Collective: every rank must call it."""


def refuse_other_kind(reference: Reference, state: dict[str, Any], key: str) -> None:
    """Refuse the state of a reference of another kind, which does not have ``key``."""
    if key not in state:
        raise ValueError(
            "A fit should be resumed with the kind of reference that its checkpoint holds. Found "
            f"`{type(reference).__name__}`, and the state of another kind. Use the reference of the interrupted fit."
        )
