"""What the processes of one run know of each other, whatever the strategy."""

from __future__ import annotations

from typing import Any

import torch


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
