from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_unlearn.engine._scoped import sum_by_scope
from lightning_unlearn.functional.rows import StoredRows
from lightning_unlearn.functional.step import direction_products
from lightning_unlearn.runtime import local, map_in_threads

Row = list[Tensor | None]
"""One gradient, or one step: a tensor per parameter, ``None`` for a parameter without a gradient."""


def inner_products(rows: Sequence[Row], params: Sequence[Tensor], group: Any = None) -> Tensor:
    """All inner products of ``rows``, over whole parameters, whether they are sharded or not.

    Each process multiplies its local shards in float64. Only the ``m x m`` results are summed over ranks. Collective: every
    rank must call it.

    Args:
        rows: ``m`` gradients of the same parameters.
        params: The parameters, whose placement says how they are sharded.
        group: Process group of FSDP1's flat shards.

    Returns:
        ``[m, m]`` float64, the same on every rank.

    Example:
        >>> import torch
        >>> a, b = torch.ones(3), torch.tensor([1.0, 0.0, 2.0])
        >>> inner_products([[a], [b]], [a])
        tensor([[3., 3.],
                [3., 5.]], dtype=torch.float64)
    """

    def part(i: int) -> Tensor:
        directions = [None if (t := row[i]) is None else local(t).detach() for row in rows]
        return direction_products(StoredRows(directions), local(params[i]))

    # Threads compute, this one communicates: collectives must be in the same order on every rank.
    parts = map_in_threads(part, range(len(params)), local(params[0]).device)
    return sum_by_scope(parts, params, [0] * len(params), 1, group)[0]
