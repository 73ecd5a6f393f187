from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

from lightning_unlearn.engine import Row, hessian_product, random_numbers_kept, state_kept
from lightning_unlearn.forgetting._potential import Point, Potential
from lightning_unlearn.functional.settings import check_positive


class Curvature(ABC):
    """How gradients of gradients are computed: :class:`FiniteDifference`, or :class:`DoubleBackward`.

    Attributes:
        works_on_ranks: Whether it works in several processes, and under a gradient scaler.
    """

    works_on_ranks: bool = True

    def __init__(self, size: float = 1e-3) -> None:
        check_positive("size", size)
        self.size = size

    @abstractmethod
    def gradient(self, potential: Potential, point: Point) -> tuple[Row, Tensor]:
        """Gradient of the potential at the weights as they are, and the forget losses, ``[micro-batches]``."""

    def norm_gradient(self, potential: Potential, point: Point, here: Row) -> Row:
        """Gradient of the squared norm of the potential's gradient, which is ``here``: twice its Hessian times it."""
        product = self._product(potential, lambda: self.gradient(potential, point)[0], here, here, point)
        return [None if t is None else t.mul_(2) for t in product]

    def _product(self, potential: Potential, gradient: Any, here: Row, direction: Row, point: Point) -> Row:
        return hessian_product(potential.engine, gradient, here, direction, point.params, size=self.size)


class FiniteDifference(Curvature):
    r"""Gradients of gradients as differences of gradients, under every strategy and with every attention kernel.

    .. math:: H v \approx \frac{\|v\|}{\mu} \Bigl[ g\Bigl(\theta + \mu \frac{v}{\|v\|}\Bigr) - g(\theta) \Bigr],
              \qquad \mu = \text{size} \cdot \|\theta\|

    Costs a pass for each product, and a copy of the weights.

    Args:
        size: Length of the perturbation, relative to that of all weights.

    Example:
        >>> curvature = FiniteDifference(size=1e-3)
    """

    @override
    def gradient(self, potential: Potential, point: Point) -> tuple[Row, Tensor]:
        forget, losses = point.forget_row(potential)
        if not potential.beta:
            return forget, losses
        retain = point.retain_row(potential)
        gramian = potential.engine.gramian([forget, retain], point.params)
        (ff, fr), (_, rr) = gramian.tolist()
        if not ff or not rr:
            return forget, losses  # the cosine with a gradient of zeros has no gradient
        cosine = fr / sqrt(ff * rr)
        slope = potential.slope(cosine)
        # The derivative of the cosine by each of the two gradients.
        by_forget = _combined(forget, -cosine / ff, retain, 1 / sqrt(ff * rr))
        by_retain = _combined(retain, -cosine / rr, forget, 1 / sqrt(ff * rr))
        first = self._product(potential, lambda: point.forget_row(potential)[0], forget, by_forget, point)
        second = self._product(potential, lambda: point.retain_row(potential), retain, by_retain, point)
        return _combined(forget, 1.0, _combined(first, slope, second, slope), 1.0), losses


class DoubleBackward(Curvature):
    """Gradients of gradients by autograd: exact, in one process, with PyTorch's plain attention kernel.

    The fused kernels have no second derivative, so they are switched off in these passes. Costs the graph of a backward
    pass, several times the memory of a plain one.

    With ``beta``, the gradient of the norm would need third derivatives. Those of ``nn.LayerNorm`` are wrong in torch 2.13
    (by a tenth, in a small network), and nothing says so. So that one is a difference of exact gradients.

    Args:
        size: Length of the perturbation for that difference, as in :class:`FiniteDifference`.

    Example:
        >>> curvature = DoubleBackward()
    """

    works_on_ranks = False

    @override
    def gradient(self, potential: Potential, point: Point) -> tuple[Row, Tensor]:
        with _passes(potential):
            row, losses = _gradient(potential, point, create_graph=potential.beta > 0)
        return [None if t is None else t.detach() for t in row], losses

    @override
    def norm_gradient(self, potential: Potential, point: Point, here: Row) -> Row:
        if potential.beta:
            return super().norm_gradient(potential, point, here)
        with _passes(potential):
            row, _ = _gradient(potential, point, create_graph=True)
            norm: Any = sum((t * t).sum() for t in row if t is not None)
            return list(torch.autograd.grad(norm, list(point.params), allow_unused=True))


def _gradient(potential: Potential, point: Point, *, create_graph: bool) -> tuple[Sequence[Tensor | None], Tensor]:
    params, engine = list(point.params), potential.engine
    losses = torch.stack([engine.forward(potential.forget_loss, batch) for batch in point.forget])
    forget = torch.autograd.grad(
        losses.sum() / point.divisor, params, create_graph=create_graph, retain_graph=create_graph, allow_unused=True
    )
    if not potential.beta:
        return forget, losses.detach().float()
    retained: Any = sum(engine.forward(potential.retain_loss, batch) for batch in point.retain)
    retain = torch.autograd.grad(retained / len(point.retain), params, create_graph=True, allow_unused=True)
    lengths = _dot(forget, forget) * _dot(retain, retain)
    if not lengths:
        return forget, losses.detach().float()  # the cosine with a gradient of zeros has no gradient
    cosine = _dot(forget, retain) / lengths.sqrt()
    value = losses.sum() / point.divisor + potential.added(cosine)
    return torch.autograd.grad(value, params, create_graph=True, allow_unused=True), losses.detach().float()


def _passes(potential: Potential) -> ExitStack:
    """What the engine does around its own passes, until the last backward of several."""
    stack = ExitStack()
    stack.enter_context(random_numbers_kept())
    stack.enter_context(state_kept(potential.engine.module))
    stack.enter_context(torch.enable_grad())
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Any:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None)


@torch.no_grad()
def _combined(a: Row, weight_a: float, b: Row, weight_b: float) -> Row:
    """``weight_a * a + weight_b * b``, in new tensors."""
    pairs = zip(a, b, strict=True)
    scaled = [(None if x is None else x * weight_a, None if y is None else y * weight_b) for x, y in pairs]
    return [y if x is None else x if y is None else x.add_(y) for x, y in scaled]
