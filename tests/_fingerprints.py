"""Everything there is to know about a fit when it ends, in a form that can be compared bit for bit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

OURS = ("unlearn/", "guard/", "recovery/", "subspace/")
OF_TORCH = {*vars(nn.Module()), "_trainer"} - {"training"}


class Log(DummyLogger):
    """What the user's module logs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, int]] = []
        self.ours: list[tuple[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.ours += [(k, float(v)) for k, v in metrics.items() if k.startswith(OURS)]
        # Lightning adds "epoch" to each set of values that it sends, and sends ours, too.
        self.seen += [(k, float(v), step or 0) for k, v in metrics.items() if not k.startswith(("epoch", *OURS))]


def bits(value: Any) -> Any:
    """A value as its type and bytes, through collections and objects that hold data."""
    if isinstance(value, Tensor):
        with torch.inference_mode():
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return "tensor", str(value.dtype), tuple(value.shape), value.requires_grad, data.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return "array", str(value.dtype), value.tobytes()
    if isinstance(value, torch.Generator):
        return "generator", bits(value.get_state())
    if isinstance(value, Mapping):
        return type(value).__name__, [(str(k), bits(v)) for k, v in value.items()]
    if isinstance(value, set):
        return "set", sorted(repr(v) for v in value)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [bits(v) for v in value]
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return type(value).__name__, repr(value)
    if isinstance(value, nn.Module):
        return [(name, plain_attributes(m)) for name, m in value.named_modules()]
    return type(value).__name__, "not compared"


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {name: bits(value) for name, value in sorted(vars(module).items()) if name not in OF_TORCH}


def fingerprint(trainer: Any, module: Any) -> dict[str, Any]:
    """Weights, buffers, optimizer, attributes, random generators and the user's log, by name."""
    state = trainer.optimizers[0].state_dict() if trainer.optimizers else {}
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    found = {f"weight {name}": bits(p.data) for name, p in module.named_parameters()}
    found |= {f"buffer {name}": bits(b) for name, b in module.named_buffers()}
    found |= {f"optimizer {name}": bits(value) for name, value in state.items()}
    found |= {f"attributes {name}": plain_attributes(m) for name, m in module.named_modules()}
    found["random"] = (bits(torch.get_rng_state()), random.getstate(), bits(np.random.get_state()[1]))
    found["scaler"] = None if scaler is None else scaler.state_dict()
    found["log"] = [seen for logger in trainer.loggers for seen in getattr(logger, "seen", ())]
    found["steps"] = (trainer.global_step, trainer.current_epoch)
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of what differs."""
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]
