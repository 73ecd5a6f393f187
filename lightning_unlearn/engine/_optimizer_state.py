from __future__ import annotations

from typing import Any

import torch

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._set_aside import gradients_set_aside


def optimizer_state(engine: GradientEngine, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimizer that the trainer does not know, in torch's own form, whatever the strategy.

    Collective: shards are gathered, so every rank must call it. The first rank gets the state, for the checkpoint; the
    others get an empty one.

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
    """Load a result of :func:`optimizer_state`, each process its shards. The state may come from another strategy."""
    if not _is_sharded(engine):
        optimizer.load_state_dict(state)
        return
    if not state["state"]:
        return  # plain SGD has no state, which torch does not expect here
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    model = _model(engine)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    named = _rekeyed(state, "PARAM_NAME", model, optimizer)
    # Torch first takes a step of length zero, to create the state that it loads into. It would use the fit's gradients.
    with gradients_set_aside(engine.module, params):
        set_optimizer_state_dict(model, optimizer, named, options=_options())
    for number, param in enumerate(params):
        if number not in state["state"]:
            # Made by that step: a parameter that never had a gradient has no state.
            optimizer.state.pop(param, None)


def _is_sharded(engine: GradientEngine) -> bool:
    return engine.kind in ("fsdp1", "fsdp2")


def _model(engine: GradientEngine) -> torch.nn.Module:
    assert engine.trainer is not None
    model = engine.trainer.strategy.model
    assert model is not None
    return model


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    # Whole tensors on the CPU. Not strict: frozen parameters have no state.
    return StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def _rekeyed(
    state: dict[str, Any], to: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Change the keys between parameter names, as torch gathers them, and numbers, as ``Optimizer.state_dict`` has them."""
    from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

    kind = OptimStateKeyType[to]
    return FullyShardedDataParallel.rekey_optim_state_dict(state, kind, model, optim=optimizer)
