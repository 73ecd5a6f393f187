from __future__ import annotations

from typing import Any

import torch

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._set_aside import gradients_set_aside


def optimizer_state(engine: GradientEngine, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer the trainer knows nothing of, in torch's own form, whatever the strategy.

    Shards are gathered, so all ranks have to call it. The first one is given the state, which a checkpoint holds; the
    others are given nothing.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer_state(GradientEngine(layer), torch.optim.SGD(layer.parameters(), lr=0.5))["param_groups"][0]["lr"]
        0.5
    """
    if not _is_sharded(engine):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = _model(engine)
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_options())
    return _rekeyed(state, "PARAM_ID", model, optimizer) if state else {}


def load_optimizer_state(engine: GradientEngine, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up a state of :func:`optimizer_state`, each process its shards; it may come from under another strategy."""
    if not _is_sharded(engine):
        optimizer.load_state_dict(state)
        return
    if not state["state"]:
        return  # plain SGD has none, which torch does not expect here
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    model = _model(engine)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    named = _rekeyed(state, "PARAM_NAME", model, optimizer)
    # Torch takes a step of length zero first, to have something to load into.
    with gradients_set_aside(engine.module, params):
        set_optimizer_state_dict(model, optimizer, named, options=_options())
    for number, param in enumerate(params):
        if number not in state["state"]:
            optimizer.state.pop(param, None)  # made by that step: a parameter that has had no gradient has no state


def _is_sharded(engine: GradientEngine) -> bool:
    return engine.kind in ("fsdp1", "fsdp2")


def _model(engine: GradientEngine) -> torch.nn.Module:
    assert engine.trainer is not None
    model = engine.trainer.strategy.model
    assert model is not None
    return model


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def _rekeyed(
    state: dict[str, Any], to: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

    kind = OptimStateKeyType[to]
    return FullyShardedDataParallel.rekey_optim_state_dict(state, kind, model, optim=optimizer)
