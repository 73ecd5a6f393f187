from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.guards.directions import Directions, PerExample
from lightning_unlearn.guards.sources._base import GradientSource
from lightning_unlearn.guards.sources._examples import Examples
from lightning_unlearn.guards.sources._fit_gradient import FitGradient
from lightning_unlearn.guards.sources._retain_set import RetainSet
from lightning_unlearn.guards.storages import Storage
from lightning_unlearn.objectives import Objective
from lightning_unlearn.readouts import Readout, choose_readout


def choose_source(
    engine: GradientEngine,
    params: Sequence[Tensor],
    directions: Directions,
    storage: Storage,
    objective: Objective,
    readout: Readout | None,
    stream: ForgetStream | None,
) -> GradientSource:
    """Choose where the protected gradients come from.

    Args:
        engine: Runs the extra passes.
        params: All parameters of the guarded optimizer.
        directions: Which losses are protected.
        storage: How gradients are kept.
        objective: The protected loss, where the guard runs passes of its own.
        readout: How to run the network in these passes; ``None`` for what fits the module.
        stream: The retain set; ``None`` to protect what the fit trains on.
    """
    per_micro_batch = directions.per_micro_batch
    if stream is None and not isinstance(directions, PerExample):
        # The cheapest: the fit computes this gradient anyway.
        return FitGradient(engine, params, storage, per_micro_batch=per_micro_batch)
    chosen = choose_readout(engine.module) if readout is None else readout
    network = chosen.find_network(engine.module)
    device: Any = engine.module.device
    objective.to(device)
    if isinstance(directions, PerExample):
        return Examples(engine, chosen, objective, storage, directions.limit, params, stream)
    assert stream is not None

    def retain_loss(batch: Any) -> Tensor:
        loss: Tensor = objective(chosen(network, batch))
        return loss

    return RetainSet(engine, stream, retain_loss, params, storage, per_micro_batch=per_micro_batch)
