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
    """Add up results for local shards: over the parameters of a scope, and over the shards on all ranks.

    Inner products of whole vectors are such sums. Costs one collective for each way of sharding, whatever the number of
    scopes. Every rank must call it.

    Args:
        parts: A float64 tensor for each of ``params``, all of one shape; zeros for a parameter with no shard here.
        params: The parameters, whose placement says how they are sharded.
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
        groups = sharding_groups(
            param, group
        )  # none for a replicated parameter: every rank has the whole result already
        total = sums.setdefault(groups, part.new_zeros(count, *part.shape))
        total[scope] += part
    # Insertion order follows the parameters, so every rank reduces in the same order.
    for groups, total in sums.items():
        for g in groups:  # several under FSDP with tensor parallelism: one after the other sums over all shards
            torch.distributed.all_reduce(total, group=g)
    return torch.stack(list(sums.values())).sum(0)


def sharding_groups(param: Tensor, group: Any = None) -> tuple[Any, ...]:
    """The process groups over which ``param`` is sharded.

    Args:
        param: The parameter.
        group: Process group of FSDP1's flat shards.

    Raises:
        NotImplementedError: If the placement is partial, that is, if each process holds a summand.

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
