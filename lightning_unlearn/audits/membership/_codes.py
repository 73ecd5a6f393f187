"""Sparse codes of hidden states, and how far they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_unlearn.data import Probe
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.readouts import LayersReadout
from lightning_unlearn.runtime import eval_without_grad, on_every_rank


@dataclass(frozen=True)
class States:
    """Hidden states of the answered examples of a split, from all processes, in the order of the data.

    Args:
        numbers: Of the examples.
        values: The mean over an answer's tokens, ``[n, L, D]`` on the CPU, in float32.
    """

    numbers: list[int]
    values: Tensor


def mean_states(network: nn.Module, reader: LayersReadout, probe: Probe, engine: GradientEngine) -> States:
    """One forward pass per batch. Collective: every rank must call it."""
    here: dict[int, Tensor] = {}
    for batch, index, counts in probe.batches:
        with eval_without_grad(network):
            read = engine.forward(lambda b: reader(network, b), engine.to_device(batch))
        assert read.features is not None  # a reader of layers gives nothing else
        features = read.features if read.features.dim() == 3 else read.features[:, None]
        for place, number in enumerate(index.tolist()) if counts else ():
            own = features[read.example == place]
            if len(own):
                here[number] = own.float().mean(0).cpu()
    everywhere = {number: state for share in on_every_rank(here) for number, state in share.items()}
    numbers = sorted(everywhere)
    return States(numbers, torch.stack([everywhere[n] for n in numbers]) if numbers else torch.empty(0, 0, 0))


class Codes:
    """Names the winner of each module of units, by how far it is above its own mean over stored states.

    Args:
        units: Units of a module; what is left over at the end of a layer takes no part.
        stored: Where the means and deviations come from.

    Example:
        >>> stored = States([0, 1], torch.tensor([[[0.0, 0.0, 5.0, 1.0]], [[2.0, 2.0, 5.0, 3.0]]]))
        >>> Codes(2, stored)(States([0], torch.tensor([[[3.0, 1.0, 5.0, 3.0]]]))).tolist()
        [[[0, 1]]]
    """

    def __init__(self, units: int, stored: States) -> None:
        self.units = units
        self.mean, deviation = stored.values.mean(0), stored.values.std(0, correction=0)
        self.scale = torch.where(deviation > 0, deviation, torch.inf)  # a constant unit is never above its mean

    def __call__(self, states: States) -> Tensor:
        """The winners, ``[n, L, Q]``."""
        above = (states.values - self.mean) / self.scale
        whole = above.shape[-1] // self.units * self.units
        modules = above[..., :whole].reshape(*above.shape[:-1], -1, self.units)
        return modules.argmax(-1).to(torch.int16)


def overlap_with_closest(codes: Tensor, who: Sequence[str], stored: Tensor, whose: Sequence[str]) -> Tensor:
    """For each code, the largest share of winners that it has in common with a stored one about another entity.

    Args:
        codes: ``[n, L, Q]``.
        who: The entity of each.
        stored: ``[m, L, Q]``.
        whose: The entity of each.

    Returns:
        ``[n, L]``; 0 where nothing is stored about others.

    Example:
        >>> stored = torch.tensor([[[0, 1, 1]], [[0, 0, 1]]])
        >>> overlap_with_closest(torch.tensor([[[0, 1, 0]]]), ["Ada"], stored, ["Bo", "Cy"])
        tensor([[0.6667]])
    """
    found = []
    for code, name in zip(codes, who, strict=True):
        others = [place for place, other in enumerate(whose) if other != name]
        alike = (stored[others] == code).float().mean(-1)
        found.append(alike.amax(0) if others else torch.zeros(len(code)))
    return torch.stack(found)
