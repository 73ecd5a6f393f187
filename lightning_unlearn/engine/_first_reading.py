"""What a forward pass leaves behind: what it keeps for backward, and whether it moves anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_unlearn.runtime import local, random_states_now

T = TypeVar("T")


@dataclass(frozen=True)
class Left:
    """What a forward pass left behind.

    Args:
        kept: Bytes that backward needs, without those of the parameters themselves. What activation checkpointing does not
            keep is not in it.
        moved: Whether it drew random numbers, or wrote to a buffer.
    """

    kept: int
    moved: bool


def left_by(network: nn.Module, read: Callable[[], T]) -> tuple[T, Left]:
    """Run ``read`` with gradients, and say what it left behind.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> _, left = left_by(layer, lambda: layer(torch.ones(5, 2)).exp())
        >>> left  # the input, [5, 2], and the output, [5, 3], in float32
        Left(kept=100, moved=False)
    """
    own = {local(p).untyped_storage().data_ptr() for p in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = local(tensor).untyped_storage()
        # By storage: a tensor and its views count once. A cast of a weight is kept for it alone, and counts.
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = _versions(network), random_states_now()
    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = read()
    return result, Left(sum(sizes.values()), moved=(_versions(network), random_states_now()) != before)


def _versions(network: nn.Module) -> list[tuple[int, Any]]:
    return [(id(b), None if torch.is_inference(b) else b._version) for b in network.buffers()]
