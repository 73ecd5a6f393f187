from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import sqrt

import torch
from torch import Tensor

from lightning_unlearn.engine._gradients import GradientEngine
from lightning_unlearn.engine._products import Row
from lightning_unlearn.runtime import KeptTensors, drop_copies, local, uninterrupted


def hessian_product(
    engine: GradientEngine,
    gradient: Callable[[], Row],
    here: Row,
    direction: Row,
    params: Sequence[Tensor],
    *,
    size: float,
) -> Row:
    r"""The product of a Hessian with a direction, as a finite difference of gradients.

    .. math:: H v \approx \frac{\|v\|}{\mu} \Bigl[ g\Bigl(\theta + \mu \frac{v}{\|v\|}\Bigr) - g(\theta) \Bigr],
              \qquad \mu = \text{size} \cdot \|\theta\|

    Exact where :math:`g` is linear. It needs no second derivatives, which some attention kernels do not have. The weights
    are put back from a copy. Collective: every rank must call it.

    Args:
        engine: Knows how parameters are sharded.
        gradient: Computes :math:`g` at the weights as they are when it is called.
        here: :math:`g(\theta)`.
        direction: :math:`v`.
        params: The parameters, :math:`\theta`.
        size: Length of the perturbation, relative to that of the weights. Too small, and float32 rounds the difference.

    Returns:
        A tensor per parameter; ``None`` where it has no gradient.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> module = torch.nn.ParameterList([weight])
        >>> def gradient():  # of 3 a^2 + a b
        ...     a, b = weight.detach()
        ...     return [torch.stack([6 * a + b, a])]
        >>> direction = [torch.tensor([1.0, 0.0])]
        >>> (product,) = hessian_product(GradientEngine(module), gradient, gradient(), direction, [weight], size=0.1)
        >>> product.round(decimals=3), weight.data
        (tensor([6., 1.]), tensor([1., 2.]))
    """
    weights: Row = [p.detach() for p in params]
    squares = engine.gramian([direction, weights], params).diagonal().tolist()
    length, whole = (sqrt(square) for square in squares)
    if not length:
        return [None if g is None else torch.zeros_like(g) for g in here]
    mu = size * (whole or 1.0)
    with moved_weights(engine, params, direction, mu / length):
        there = gradient()
    return _difference(there, here, length / mu)


@contextmanager
def moved_weights(engine: GradientEngine, params: Sequence[Tensor], row: Row, factor: float) -> Iterator[None]:
    """Add ``factor`` times ``row`` to the weights. Afterwards they are put back from a copy, bit for bit."""
    drop_copies(engine.module)
    kept = KeptTensors(params)
    try:
        move_(engine, params, row, factor)
        yield
    finally:
        with uninterrupted():
            drop_copies(engine.module)
            kept.put_back()


@torch.no_grad()
def move_(engine: GradientEngine, params: Sequence[Tensor], row: Row, factor: float) -> None:
    """Add ``factor`` times ``row`` to the weights, in place. A parameter without an entry stays."""
    drop_copies(engine.module)
    for p, direction in zip(params, row, strict=True):
        if direction is not None:
            local(p).add_(local(direction), alpha=factor)


@torch.no_grad()
def _difference(there: Row, here: Row, factor: float) -> Row:
    """``factor * (there - here)``, over ``there``. What has no gradient on one side has one of zeros there."""
    found: Row = []
    for a, b in zip(there, here, strict=True):
        if a is None:
            found.append(None if b is None else b * -factor)
        else:
            found.append((a if b is None else a.sub_(b)).mul_(factor))
    return found
