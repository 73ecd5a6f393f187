from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Partial


def sum_by_scope(
    parts: Iterable[Tensor], params: Sequence[Tensor], scopes: Sequence[int], count: int, group: Any = None
) -> Tensor:
    """Add up what was computed of each parameter's local part, over the parameters of a scope and over their shards.

    Inner products of whole vectors are such sums. One collective for each way of sharding, whatever the number of scopes.

    Args:
        parts: A float64 tensor for each of ``params``, all of one shape; zeros where this process holds nothing of it.
        params: The parameters, for their placement.
        scopes: Number of the scope of each of ``params``.
        count: Number of scopes.
        group: Process group of FSDP1's flat shards.

    Returns:
        ``[count, ...]`` float64, the same on every rank.

    Example:
        >>> ones = [torch.ones(2, dtype=torch.float64)] * 3
        >>> sum_by_scope(ones, [torch.zeros(1)] * 3, [0, 1, 1], count=2)
        tensor([[1., 1.],
                [2., 2.]], dtype=torch.float64)
    """
    sums: dict[tuple[Any, ...], Tensor] = {}
    for part, param, scope in zip(parts, params, scopes, strict=True):
        groups = sharding_groups(param, group)
        total = sums.setdefault(groups, part.new_zeros(count, *part.shape))
        total[scope] += part
    # Insertion order follows the parameters, so every rank reduces in the same order.
    for groups, total in sums.items():
        for g in groups:
            torch.distributed.all_reduce(total, group=g)
    return torch.stack(list(sums.values())).sum(0)


def sharding_groups(param: Tensor, group: Any = None) -> tuple[Any, ...]:
    """Over which process groups ``param`` is cut up; sums over parameters cut up alike need one collective each.

    Args:
        param: Whose placement it is.
        group: Process group of FSDP1's flat shards.

    Raises:
        NotImplementedError: If each process holds a summand of it.

    Example:
        >>> sharding_groups(torch.zeros(1))
        ()
    """
    if group is not None:
        return (group,)
    if not isinstance(param, DTensor):
        return ()
    if any(isinstance(placement, Partial) for placement in param.placements):
        raise NotImplementedError(
            f"Parameters should be sharded or replicated. Found `placements = {param.placements}`. "
            "Reduce partial parameters before the optimizer step."
        )
    mesh = param.device_mesh
    return tuple(mesh.get_group(d) for d, placement in enumerate(param.placements) if placement.is_shard())
