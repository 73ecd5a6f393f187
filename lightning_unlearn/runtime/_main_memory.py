"""Batches in main memory, where their content is read."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def in_main_memory(batch: Any) -> Any:
    """``batch`` with its tensors on the CPU, in plain collections of any depth; other values stay as they are.

    Read there example by example, a batch costs one transfer for each of its tensors, and not one for each example.

    Example:
        >>> import torch
        >>> in_main_memory({"x": torch.ones(2), "name": "a"})
        {'x': tensor([1., 1.]), 'name': 'a'}
    """
    try:
        return apply_to_collection(batch, Tensor, lambda tensor: tensor.cpu(), allow_frozen=True)
    except (TypeError, ValueError):  # a collection of the user's own, which is built in a way of its own
        return batch
