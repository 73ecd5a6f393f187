from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine


def with_all_ranks(state: dict[str, Any], engine: GradientEngine) -> dict[str, Any]:
    """What every process holds: a checkpoint has the callbacks of the first one, whose shards are not the others'.

    All processes have to ask; the first is answered.

    Args:
        state: Tensors in plain collections; of shards, if the strategy shards.
        engine: Says how.
    """
    if not any(state.values()) or not _is_sharded(engine):
        return state
    here = apply_to_collection(state, Tensor, lambda t: t.cpu())
    every: list[Any] | None = [None] * engine.world_size if engine.rank == 0 else None
    torch.distributed.gather_object(here, every)
    return {} if every is None else {"ranks": every}


def own_share(state: dict[str, Any], engine: GradientEngine, what: str) -> dict[str, Any]:
    """What this process held; nothing, with a warning, if the checkpoint is of another way of sharding."""
    ranks = state.get("ranks")
    if not any(state.values()) or (ranks is None and not _is_sharded(engine)):
        return state
    if ranks is not None and _is_sharded(engine) and len(ranks) == engine.world_size:
        share: dict[str, Any] = ranks[engine.rank]
        return share
    was = "whole" if ranks is None else f"in {len(ranks)} shards"
    rank_zero_warn(
        f"{what} should be resumed under the strategy, and in as many processes, as they were saved. Found them {was}, and "
        f"`{engine.kind}` with `world_size = {engine.world_size}`: they are left out, and fill anew."
    )
    return {}


def _is_sharded(engine: GradientEngine) -> bool:
    return engine.kind in ("fsdp1", "fsdp2")
