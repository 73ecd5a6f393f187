from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine


def with_all_ranks(state: dict[str, Any], engine: GradientEngine) -> dict[str, Any]:
    """Gather the state of every process. Lightning saves the callbacks of the first one only, with the shards of that one.

    Collective: every rank must call it. The first rank gets the states of all, the others get an empty one.

    Args:
        state: Tensors in plain collections; of shards, if the strategy shards.
        engine: Knows whether it does.
    """
    # Without shards every rank has the same state: the first one's will do.
    if not any(state.values()) or not _is_sharded(engine):
        return state
    # Pickled for the transfer, so CPU tensors: others would be restored on the sender's device.
    here = apply_to_collection(state, Tensor, lambda t: t.cpu())
    every: list[Any] | None = [None] * engine.world_size if engine.rank == 0 else None
    torch.distributed.gather_object(here, every)
    return {} if every is None else {"ranks": every}


def own_share(state: dict[str, Any], engine: GradientEngine, what: str) -> dict[str, Any]:
    """The share of this process in a saved state; empty, with a warning, if the state was sharded in another way."""
    ranks = state.get("ranks")
    if not any(state.values()) or (ranks is None and not _is_sharded(engine)):
        return state
    if ranks is not None and _is_sharded(engine) and len(ranks) == engine.world_size:
        share: dict[str, Any] = ranks[engine.rank]
        return share
    was = "whole" if ranks is None else f"in {len(ranks)} shards"
    rank_zero_warn(
        f"{what} should be resumed under the strategy, and in as many processes, as they were saved. Found them {was}, and "
        f"`{engine.kind}` with `world_size = {engine.world_size}`: they are dropped, and start empty."
    )
    return {}


def _is_sharded(engine: GradientEngine) -> bool:
    return engine.kind in ("fsdp1", "fsdp2")
