from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.runtime import local

_SAMPLE = 1 << 16


class RealisedStep:
    """Measures how much of the optimizer's step the weights took.

    One tensor's step is repeated in float32, by an optimizer of the same class with the same state and the clipped gradient,
    and compared with how far the tensor moved. In bf16 a weight has eight bits: a step smaller than about 1/512 of it is
    lost.
    """

    def __init__(self) -> None:
        self._sample: tuple[Tensor, Tensor, dict[str, Any]] | None = None

    def before(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> None:
        """Remember one tensor, of a size near 2^16, and its optimizer state. Each rank measures a shard of its own."""
        used = [p for p in params if p.grad is not None and local(p).numel()]
        if not used:
            return
        param = min(used, key=lambda p: abs(local(p).numel() - _SAMPLE))
        # Copies: the step changes both in place.
        state = deepcopy({k: _whole(v) for k, v in optimizer.state.get(param, {}).items()})
        self._sample = param, local(param).detach().clone(), state

    def after(self, optimizer: torch.optim.Optimizer) -> float | None:
        """Length of the taken step over that of the step asked for; ``None`` if it was not, or cannot be, measured."""
        sample, self._sample = self._sample, None
        if sample is None or sample[0].grad is None:
            return None
        param, weight, state = sample
        asked = self._asked(optimizer, param, weight.float(), state)
        taken = local(param).detach().float() - weight.float()
        if asked is None or not float(asked.norm()):
            return None
        return float(taken.norm() / asked.norm())

    def _asked(
        self, optimizer: torch.optim.Optimizer, param: Tensor, weight: Tensor, state: dict[str, Any]
    ) -> Tensor | None:
        group = next(g for g in optimizer.param_groups if any(p is param for p in g["params"]))
        # A stand-in of the same values: the user's parameter, gradient and optimizer are not touched.
        double = torch.nn.Parameter(weight.clone())
        assert param.grad is not None
        double.grad = local(param.grad).detach().float().clone()
        try:
            # `p.grad` is clipped by now, so the step is that of the optimizer alone.
            again: Any = type(optimizer)([{**group, "params": [double]}])  # type: ignore[call-arg]
            again.state[double] = {k: _raised(v) for k, v in state.items()}
            again.step()
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            return None  # it cannot be built from its parameter groups, or its state does not fit a float32 tensor
        return double.detach() - weight


def _whole(value: Any) -> Any:
    return local(value) if isinstance(value, Tensor) else value


def _raised(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
