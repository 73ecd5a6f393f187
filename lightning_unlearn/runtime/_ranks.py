"""What the processes of one run know of each other, whatever the strategy."""

from __future__ import annotations

from typing import Any

import torch


def data_share(trainer: Any) -> tuple[int, int]:
    """Number of the share of the data that this process sees, and number of shares: tensor-parallel processes see the same.

    Args:
        trainer: Once its processes have been set up; ``None`` for one process.

    Example:
        >>> data_share(None)
        (0, 1)
    """
    share = (None if trainer is None else trainer.distributed_sampler_kwargs) or {}
    return share.get("rank", 0), share.get("num_replicas", 1)


def on_every_rank(value: Any) -> list[Any]:
    """The ``value`` of each process, by rank. Each has to ask, equally often.

    Example:
        >>> on_every_rank("mine")
        ['mine']
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
