from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine


def unscales_by_itself(engine: GradientEngine, optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``p.grad`` is still scaled before the step: fused optimizers divide by the scaler's factor inside it."""
    # torch's own flag, which the gradient scaler goes by, too.
    return engine.scaler() is not None and getattr(optimizer, "_step_supports_amp_scaling", False)


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """In a step's post hook: whether the step was skipped because a gradient overflowed.

    Only fused optimizers are called at all then, and skip the step themselves. With any other optimizer the gradient scaler
    does not call the step, and no hook runs.

    Example:
        >>> was_skipped(torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))]))
        False
    """
    return bool(getattr(optimizer, "found_inf", False))


@contextmanager
def unscaled(engine: GradientEngine, optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> Iterator[None]:
    """Unscale ``p.grad`` inside the context, if the optimizer expects it scaled, and scale it again at the end.

    The factor is a power of two unless the user chose another, so nothing is rounded.
    """
    if not unscales_by_itself(engine, optimizer):
        yield
        return
    scale = float(engine.scaler().get_scale())
    # Infinities stay infinite, so the optimizer still finds them and leaves the step out.
    _multiply_(params, 1 / scale)
    yield
    _multiply_(params, scale)


def _multiply_(params: Sequence[Tensor], factor: float) -> None:
    for p in params:
        if p.grad is not None:
            p.grad.mul_(factor)
