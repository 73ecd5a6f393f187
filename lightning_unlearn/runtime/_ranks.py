"""Ranks and their shares of the data, under every strategy."""

from __future__ import annotations

from typing import Any

import torch


def data_share(trainer: Any) -> tuple[int, int]:
    """Which share of the data this process reads, and how many shares there are.

    Args:
        trainer: A trainer whose processes have been set up; ``None`` for one process.

    Example:
        >>> data_share(None)
        (0, 1)
    """
    # Lightning's own answer, not rank and world size: tensor-parallel processes must read the same share.
    share = (None if trainer is None else trainer.distributed_sampler_kwargs) or {}
    return share.get("rank", 0), share.get("num_replicas", 1)


def on_every_rank(value: Any) -> list[Any]:
    """The ``value`` of each process, by rank. Collective: every rank must call it.

    Example:
        >>> on_every_rank("mine")
        ['mine']
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def own_rank() -> int:
    """The number of this process; 0 if it is the only one.

    Example:
        >>> own_rank()
        0
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    return torch.distributed.get_rank()
