from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from typing_extensions import override

from lightning_unlearn.prediction import Likelihood
from lightning_unlearn.readouts import Readout

# Beside the module, and not in it: what it keeps as attributes is copied, compared and put back around other passes.
_offered: WeakKeyDictionary[nn.Module, SharedPass] = WeakKeyDictionary()


class SharedPass(ABC):
    """How a training step reads its batch: something else may be read in the same forward and backward pass."""

    @abstractmethod
    def read(self, readout: Readout, network: nn.Module, batch: Any) -> Likelihood:
        """What ``readout`` gives for ``batch`` alone."""

    @abstractmethod
    def carry(self, loss: Tensor) -> Tensor:
        """``loss`` by its value; its backward pass is also that of what was read along."""


class OwnPass(SharedPass):
    """Nothing is read along."""

    @override
    def read(self, readout: Readout, network: nn.Module, batch: Any) -> Likelihood:
        return readout(network, batch)

    @override
    def carry(self, loss: Tensor) -> Tensor:
        return loss


class PrecededPass(SharedPass):
    """Another pass, with something done right before it.

    Args:
        before: What is done.
        then: The pass.

    Example:
        >>> shared = PrecededPass(lambda: print("before"), OwnPass())
        >>> shared.read(lambda network, batch: network(batch), nn.Identity(), 3)
        before
        3
    """

    def __init__(self, before: Callable[[], None], then: SharedPass) -> None:
        self._before, self._then = before, then

    @override
    def read(self, readout: Readout, network: nn.Module, batch: Any) -> Likelihood:
        self._before()
        return self._then.read(readout, network, batch)

    @override
    def carry(self, loss: Tensor) -> Tensor:
        return self._then.carry(loss)


def offer_pass(module: nn.Module, shared: SharedPass) -> None:
    """Let the next training step of ``module`` read along what ``shared`` has, if it asks by :func:`taken_pass`."""
    _offered[module] = shared


def taken_pass(module: nn.Module) -> SharedPass:
    """How the training step that begins now should read its batch. Each offer is taken once.

    Example:
        >>> type(taken_pass(nn.Linear(1, 1))).__name__
        'OwnPass'
    """
    return _offered.pop(module, None) or OwnPass()
