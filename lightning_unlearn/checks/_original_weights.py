"""What is kept of the original's weights, to say in the end which of them have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.observation import Change
from lightning_unlearn.runtime import local, on_every_rank, own_rank, tensor_checksum

SAMPLE = 512
"""Weights of each tensor that are kept: a share is then known to four percentage points, and a checkpoint hardly grows."""


@dataclass(frozen=True)
class _Compared:
    """A tensor, compared on one process."""

    tensor: str
    elements: int
    trainable: bool
    changed: bool
    sampled: int
    differ: int
    distance: float
    length: float


@dataclass
class OriginalWeights:
    """A hash of each tensor of the original, and a sample of its weights, instead of a copy.

    The hash says whether a tensor has changed at all, to the bit; the sample estimates the share that has. Under sharding
    each process keeps its own shard's.
    """

    rank: int = -1
    hashes: dict[str, int] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def see(self, network: nn.Module) -> None:
        """Remember the weights as they are now."""
        self.rank = own_rank()
        self.hashes = {name: tensor_checksum(local(p).detach()) for name, p in network.named_parameters()}
        self.samples = {name: _sample(p) for name, p in network.named_parameters()}

    def changes(self, network: nn.Module) -> list[Change]:
        """How far each tensor is from what was seen; none if nothing was seen. Collective."""
        # A resumed fit has the first process's shards alone, and then they speak for the others.
        own = self._compared(network) if self.rank == own_rank() else []
        return _merged(one for of_rank in on_every_rank(own) for one in of_rank)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"rank": self.rank, "hashes": self.hashes, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what an interrupted run has seen."""
        self.rank, self.hashes, self.samples = state["rank"], dict(state["hashes"]), dict(state["samples"])

    @torch.no_grad()
    def _compared(self, network: nn.Module) -> list[_Compared]:
        return [
            self._compare(name, p)
            for name, p in network.named_parameters()
            if name in self.samples and self.samples[name].shape == _sample(p).shape
        ]

    def _compare(self, name: str, parameter: Tensor) -> _Compared:
        before, now = self.samples[name], _sample(parameter)
        changed = tensor_checksum(local(parameter).detach()) != self.hashes[name]
        difference = (now.double() - before.double()).square().sum() if now.is_floating_point() else torch.nan
        return _Compared(
            name,
            parameter.numel(),
            parameter.requires_grad,
            changed,
            sampled=now.numel(),
            differ=int((now != before).sum()) if changed else 0,  # NaN would differ from itself
            distance=float(difference),
            length=float(before.double().square().sum()) if now.is_floating_point() else torch.nan,
        )


def _sample(tensor: Tensor) -> Tensor:
    """Up to :data:`SAMPLE` weights, always the same places: all of a small tensor, random ones of a larger one."""
    # A plain tensor: `.to` of weights in 4 bits would round them again.
    flat = local(tensor).detach().as_subclass(Tensor).reshape(-1)
    if flat.numel() <= SAMPLE:
        return flat.to("cpu", copy=True)
    # A generator of its own: the global ones are the user's. Every n-th weight would often be of one and the same column.
    places = torch.randint(flat.numel(), (SAMPLE,), generator=torch.Generator().manual_seed(0))
    return flat[places.to(flat.device)].cpu()


def _merged(compared: Iterable[_Compared]) -> list[Change]:
    by_name: dict[str, list[_Compared]] = defaultdict(list)
    for one in compared:
        by_name[one.tensor].append(one)
    return [_change(of_ranks) for of_ranks in by_name.values()]


def _change(of_ranks: list[_Compared]) -> Change:
    sampled, length = sum(one.sampled for one in of_ranks), sum(one.length for one in of_ranks)
    first, distance = of_ranks[0], sum(one.distance for one in of_ranks)
    return Change(
        first.tensor,
        first.elements,
        first.trainable,
        changed=any(one.changed for one in of_ranks),
        share=sum(one.differ for one in of_ranks) / sampled if sampled else 0.0,
        relative=(distance / length) ** 0.5 if length > 0 else None,
    )
