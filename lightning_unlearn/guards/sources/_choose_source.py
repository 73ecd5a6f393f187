from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_unlearn.data import ForgetStream
from lightning_unlearn.engine import GradientEngine, decided_readout
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
    chosen = _readout(engine, readout, stream)
    network = chosen.find_network(engine.module)
    device: Any = engine.module.device
    objective.to(device)
    objective.refuse_without_logits(chosen)
    if isinstance(directions, PerExample):
        _refuse_own_loss(chosen)
        return Examples(engine, chosen, objective, storage, directions.limit, params, stream)
    assert stream is not None
    reading = chosen.for_mean() if objective.needs_only_mean else chosen

    def retain_loss(batch: Any) -> Tensor:
        loss: Tensor = objective(reading(network, batch))
        return loss

    return RetainSet(engine, stream, retain_loss, params, storage, per_micro_batch=per_micro_batch)


def _readout(engine: GradientEngine, given: Readout | None, stream: ForgetStream | None) -> Readout:
    module: Any = engine.module
    if engine.trainer is None:
        return choose_readout(module) if given is None else given
    return decided_readout(engine.trainer, module, given, lambda: () if stream is None else stream.loader)


def _refuse_own_loss(readout: Readout) -> None:
    if not readout.gives_logits:
        raise NotImplementedError(
            f"`PerExample` should get a readout that reads each example by itself. Found `{readout!r}`: the loss of "
            "`training_step` is one number for a batch. Use `MicroBatches()` or `RetainGradient()`, or "
            "`StepGuard(readout=ClassificationReadout())` for a classifier."
        )
