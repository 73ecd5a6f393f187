"""What an attacker adds to weights: two low-rank factors, or a whole matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_unlearn.attacks._perturbed import RealisedShare, in_full, is_half
from lightning_unlearn.attacks._places import Place
from lightning_unlearn.attacks._shifted_weight import shifted_in_passes, shifted_weights
from lightning_unlearn.engine import sharded_like
from lightning_unlearn.models.layers import covered_share
from lightning_unlearn.runtime import local

_LEAST = 0.5


class Change(ABC):
    """Something that is added to a weight. Its parameters are float32, and no part of the network.

    Args:
        place: Where.

    Attributes:
        was_used: Whether the layer was called, or its weight read, in a way that what is added took part in.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.was_used = False

    @property
    @abstractmethod
    def params(self) -> list[Tensor]:
        """What is trained."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """What is added, ``[stacked..., out, in]``."""

    @abstractmethod
    def times(self, inputs: Tensor) -> Tensor:
        """What a linear layer's outputs get, from its ``inputs``, ``[..., in]``."""

    def shift(self) -> Tensor:
        """What is added, in the layout of the weight."""
        self.was_used = True
        return self.place.matrix.layout.undone(self.matrix().reshape(self.place.shape))


class LowRank(Change):
    """The product of two factors, of which the second one is zero at first.

    Args:
        place: Where.
        rank: Of the product, at most.
        generator: For the first factor; on the CPU, since devices draw other numbers from the same seed.
    """

    def __init__(self, place: Place, *, rank: int, generator: torch.Generator) -> None:
        super().__init__(place)
        stacked, outputs, inputs = place.sizes
        rank = rank if place.has_hook else min(rank, outputs, inputs)
        # Scaled so that the size of what goes through does not depend on the width.
        first = torch.randn(*stacked, rank, inputs, generator=generator, dtype=torch.float32) / inputs**0.5
        self.a = nn.Parameter(first.to(place.device))
        self.b = nn.Parameter(torch.zeros(*stacked, outputs, rank, device=place.device, dtype=torch.float32))

    @property
    @override
    def params(self) -> list[Tensor]:
        return [self.a, self.b]

    @override
    def matrix(self) -> Tensor:
        return self.b @ self.a

    @override
    def times(self, inputs: Tensor) -> Tensor:
        # Factors first, one at a time: the full [out, in] matrix is never formed.
        return inputs @ self.a.T @ self.b.T


class Whole(Change):
    """A matrix of any rank, zero at first.

    Args:
        place: Where.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        stacked, outputs, inputs = place.sizes
        self.delta = nn.Parameter(torch.zeros(*stacked, outputs, inputs, device=place.device, dtype=torch.float32))

    @property
    @override
    def params(self) -> list[Tensor]:
        return [self.delta]

    @override
    def matrix(self) -> Tensor:
        return self.delta

    @override
    def times(self, inputs: Tensor) -> Tensor:
        return inputs @ self.delta.T


@contextmanager
def added(changes: Sequence[Change]) -> Iterator[None]:
    """Let a network compute with these changes until the block is left. No parameter, key or module of it changes."""
    shifts: dict[nn.Module, dict[str, Any]] = {}
    with ExitStack() as stack:
        for change in changes:
            place = change.place
            if place.has_hook:
                stack.callback(place.matrix.module.register_forward_hook(_adding(change), with_kwargs=True).remove)
            else:
                shifts.setdefault(place.matrix.module, {})[place.matrix.storage.name] = change.shift
        # PEFT's adapter of a bare parameter changes the class of its module in each forward pass.
        restless = {c.place.matrix.module for c in changes if _names_parameters(c.place)}
        for module, of_module in shifts.items():
            way = shifted_in_passes if module in restless else shifted_weights
            stack.enter_context(way(module, of_module))
        yield


def realised_share(changes: Sequence[Change], who: str) -> float:
    """How much of what is added to weights of half precision arrives in their sum. Warns below half.

    Products that are added to outputs are not counted: they are computed in float32.
    """
    share = RealisedShare(who)
    for change in changes:
        weight = change.place.matrix.module._parameters.get(change.place.matrix.storage.name)
        if weight is None or change.place.has_hook or not is_half(weight):
            continue
        wanted, here = change.shift().detach(), local(weight).detach()
        wanted = local(sharded_like(wanted, weight)) if isinstance(weight, DTensor) else wanted
        share.add(wanted, (here.to(in_full(here)) + wanted).to(here.dtype).float() - here.float())
    share.warn()
    return share.value


def warn_of_unused(network: nn.Module, changes: Sequence[Change], who: str) -> None:
    """Warn if most of the weights never met what was added to them: nobody can tell before that a layer is not called."""
    used = [change.place.matrix for change in changes if change.was_used]
    if (
        len(used) < len(changes)
        and covered_share(network, used, among=[change.place.matrix for change in changes]) < _LEAST
    ):
        # Without the figure, so that Python shows it once, and not in each step of a fit.
        rank_zero_warn(
            f"{who} should train most weights of the network. Found that layers with most of them were never called: the "
            "modules around them read their weights, or its data does not go through them. The attack looks weaker than it "
            'is. Use `Relearn(mode="full")`.'
        )


def _adding(change: Change) -> Any:
    name, (_, outputs, _) = change.place.matrix.storage.name, change.place.sizes

    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        inputs = args[0] if args else next(iter(kwargs.values()))
        # Of tensor parallelism each process has a part of the outputs.
        is_product = isinstance(output, Tensor) and output.shape == (*inputs.shape[:-1], outputs)
        if not is_product and not isinstance(layer._parameters.get(name), DTensor):
            # Subclasses do more with their product, as routers and grouped layers do: once more, with the sum.
            with shifted_weights(layer, {name: change.shift}):
                return layer.forward(*args, **kwargs)
        change.was_used = True
        return output + change.times(inputs.float()).to(output.dtype)

    return add


def _names_parameters(place: Place) -> bool:
    return any(hasattr(adapter, "parameter_name") for adapter in place.matrix.adapters)
