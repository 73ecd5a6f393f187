from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lightning_unlearn.engine import GradientEngine

BatchLoss = Callable[[Any], Tensor]
"""From a batch to the scalar an attacker minimises."""


class Attack(ABC):
    """What an adversary, or a deployment, does to a network: a context manager over the live network.

    Entering perturbs the network and gives an iterator of *points*: strengths of the attack (a number of steps, of bits)
    at which the caller should measure. Leaving restores every parameter bit for bit, also after an exception, or when not
    all points were consumed.

    Attributes:
        family: The kind of attack. To the report ``"quant"``, ``"prune"`` and ``"merge"`` are what people do in good faith
            to use a model; every other kind, such as ``"relearn"``, is an adversary.
        unit: What a point counts, for axes and tables: ``"bits"``, ``"step"``.
        needs_data: Which ``batches`` it should be given: ``"attack"``, an attacker's own, or ``"retain"``, what the fit
            keeps. ``None``, the default, for none.

    Example:
        >>> import torch
        >>> from lightning_unlearn import Quantize
        >>> network = torch.nn.Linear(4, 4)
        >>> with Quantize(bits=2, skip=())(network) as points:
        ...     seen = [(bits, network.weight.unique().numel() <= 16) for bits in points]
        >>> seen
        [(2, True)]
    """

    family: ClassVar[str]
    unit: ClassVar[str]
    needs_data: ClassVar[Literal["attack", "retain"] | None] = None

    @abstractmethod
    def __call__(
        self,
        network: nn.Module,
        *,
        batches: Iterable[Any] = (),
        loss: BatchLoss | None = None,
        engine: GradientEngine | None = None,
    ) -> AbstractContextManager[Iterator[int]]:
        """Attack ``network``.

        Args:
            network: The live network, perturbed in place.
            batches: What the attacker has to train on, on the network's device. They may be loaded one by one.
            loss: What the attacker minimises on a batch.
            engine: How gradients are computed under the strategy in use. Defaults to plain autograd.
        """

    def share_reached(self, network: nn.Module) -> float | None:
        """The share of the weights of ``network`` that the attack reaches, from 0 to 1, for the report.

        An attack that reached less than half of them shows nothing, so such numbers are no verdict. ``None``, the default,
        is for attacks that this does not apply to.
        """
        return None
