from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Partial

from lightning_unlearn.functional.sharding import local
from lightning_unlearn.functional.step import direction_products

Row = list[Tensor | None]
"""One gradient, or one step: a tensor per parameter, ``None`` where it has none."""


def inner_products(rows: Sequence[Row], params: Sequence[Tensor], group: Any = None) -> Tensor:
    """All inner products of ``rows``, over whole parameters, however these are sharded.

    Products are taken in float64 on what this process holds; only the ``m x m`` result crosses ranks.

    Args:
        rows: ``m`` gradients over the same parameters.
        params: The parameters, for their placement.
        group: Process group of FSDP1's flat shards.

    Returns:
        ``[m, m]`` float64, the same on every rank.

    Example:
        >>> a, b = torch.ones(3), torch.tensor([1.0, 0.0, 2.0])
        >>> inner_products([[a], [b]], [a])
        tensor([[3., 3.],
                [3., 5.]], dtype=torch.float64)
    """
    device = local(params[0]).device
    sums: dict[tuple[Any, ...], Tensor] = {}
    for i, param in enumerate(params):
        groups = _sharding_groups(param) if group is None else (group,)
        total = sums.setdefault(groups, torch.zeros(len(rows), len(rows), dtype=torch.float64, device=device))
        total += direction_products(
            [None if (t := row[i]) is None else local(t).detach() for row in rows], local(param)
        )
    # Insertion order follows the parameters, so every rank reduces in the same order.
    for groups, total in sums.items():
        for g in groups:
            torch.distributed.all_reduce(total, group=g)
    return torch.stack(list(sums.values())).sum(0)


def _sharding_groups(param: Tensor) -> tuple[Any, ...]:
    if not isinstance(param, DTensor):
        return ()
    if any(isinstance(placement, Partial) for placement in param.placements):
        raise NotImplementedError(
            f"Parameters should be sharded or replicated. Found `placements = {param.placements}`. "
            "Reduce partial parameters before the optimizer step."
        )
    mesh = param.device_mesh
    return tuple(mesh.get_group(d) for d, placement in enumerate(param.placements) if placement.is_shard())
