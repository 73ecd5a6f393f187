from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_unlearn.functional.subspace import Projection, thinner
from lightning_unlearn.guards.subspaces._base import Subspace
from lightning_unlearn.guards.subspaces._input_layers import InputLayer
from lightning_unlearn.runtime import local


def decided_projection(
    trainer: pl.Trainer, layer: InputLayer, subspace: Subspace, summary: Tensor
) -> tuple[Projection, bool]:
    """Decide which inputs of a layer are protected. Collective: the first process decides for all.

    Returns:
        The projection, and whether it protects all that ``subspace`` asks for.
    """
    decided: Any = None
    # Each process deciding alone, one might round to another number of directions: the shards would not fit together.
    if trainer.is_global_zero:
        protected, is_enough = subspace.protected(summary)
        thin = thinner(protected)
        dtype = torch.promote_types(layer.weight.dtype, torch.float32)  # as exact as the weights
        decided = thin.basis.to("cpu", dtype), thin.is_free, is_enough
    basis, is_free, is_enough = trainer.strategy.broadcast(decided)
    return Projection(basis.to(local(layer.weight).device), is_free), is_enough
