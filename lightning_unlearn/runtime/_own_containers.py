"""Batches that are read several times, by code that may take them apart."""

from __future__ import annotations

from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def in_own_containers(batch: Any) -> Any:
    """The same tensors in new collections: what a ``training_step`` takes out of them is still in ``batch``.

    Example:
        >>> batch = {"x": 1, "y": 2}
        >>> in_own_containers(batch).pop("y"), batch
        (2, {'x': 1, 'y': 2})
    """
    try:
        return apply_to_collection(batch, Tensor, lambda tensor: tensor, allow_frozen=True)
    except (TypeError, ValueError):  # a collection of the user's own, which is built in a way of its own
        return batch
