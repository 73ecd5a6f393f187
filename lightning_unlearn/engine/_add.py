from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.functional.gradient_places import Place, added_in_place, takes_in_place


def adds_in_place(engine: GradientEngine, batches: int) -> bool:
    """Whether :func:`add_gradient_` can be used: one batch to add, no ranks to average over, no gradient scaler."""
    return engine.kind == "single" and engine.scaler() is None and batches == 1


def add_gradient_(
    engine: GradientEngine,
    loss: Callable[[Any], Tensor],
    batch: Any,
    params: Sequence[Tensor],
    *,
    weight: float,
    measured: bool,
) -> tuple[Tensor, Tensor | None]:
    """Add ``weight`` times the gradient of ``loss`` to ``p.grad``, tensor by tensor, as backward computes it.

    The same result as :meth:`GradientEngine.row` with :func:`combine_`, but a second gradient is never held: as soon as
    backward has computed a tensor, it is added to the gradient that was set aside, and freed.

    Args:
        engine: Runs the pass.
        loss: From a batch to a scalar.
        batch: A micro-batch, on the device.
        params: The parameters whose gradient is needed.
        weight: Factor on the added gradient.
        measured: Whether to compute the Gramian too, which reads both gradients once more.

    Returns:
        The loss, ``[]``, and the Gramian ``[2, 2]`` float64 of the gradient of ``loss`` and the old ``p.grad``. It is
        ``None`` if it was not measured, or if backward gave a tensor in several parts.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[1.0, 1.0]])
        >>> engine = GradientEngine(layer)
        >>> loss, gramian = add_gradient_(engine, lambda x: layer(x).sum(), torch.tensor([1.0, 2.0]), [layer.weight],
        ...                               weight=0.5, measured=True)
        >>> layer.weight.grad.tolist(), gramian.tolist()
        ([[1.5, 2.0]], [[5.0, 3.0], [3.0, 2.0]])
    """
    # `engine.backward` sets `p.grad` aside and puts the old tensors back: the sums are written to `p.grad` after that.
    aside = {p: p.grad for p in params}
    gramian = torch.zeros(2, 2, dtype=torch.float64, device=params[0].device)
    if measured:
        gramian[1, 1] = sum(_dot(grad, grad) for grad in aside.values() if grad is not None)
    hooked: list[Tensor] = []

    def add(p: Tensor) -> None:
        if p.grad is None:  # all of it is at its place already
            return
        before = aside[p]
        # The products first: the next line overwrites both tensors.
        if measured:
            gramian[0, 0] += _dot(p.grad, p.grad)
            gramian[0, 1] += 0 if before is None else _dot(p.grad, before)
        hooked.append(p)
        aside[p] = p.grad.mul_(weight) if before is None else before.add_(p.grad, alpha=weight)
        p.grad = None  # freed here, tensor by tensor: this is what saves the memory

    # Nothing is to be measured of it: the largest weights' gradient need not exist at all.
    places = {p: Place(g, weight) for p, g in aside.items() if not measured and g is not None and takes_in_place(p, g)}
    # After accumulation: this hook sees the whole gradient in `p.grad`, also where a weight is used twice.
    handles = [p.register_post_accumulate_grad_hook(add) for p in params]
    try:
        with added_in_place(places):
            value = engine.backward(loss, batch)
    finally:
        for handle in handles:
            handle.remove()
    for p, grad in aside.items():
        p.grad = grad
    gramian[1, 0] = gramian[0, 1]
    # Re-entrant activation checkpointing calls the hook several times for one tensor, each time with a part of its
    # gradient. The sum is right, but products of parts do not add up to the product of the whole.
    return value, gramian if measured and len(set(hooked)) == len(hooked) else None


def _dot(a: Tensor, b: Tensor) -> float:
    # Float32 within a tensor, which costs no float64 copy of it; the tensors are added up in float64.
    return float(torch.dot(a.flatten().float(), b.flatten().float()))
