"""Logistic regression, fitted to the end: it is convex, so every fit of the same data is the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, ``[D]`` each; 1 where a column is constant.

    Args:
        features: ``[N, D]``.

    Example:
        >>> standardise(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        (tensor([1., 5.]), tensor([1., 1.]))
    """
    scale = features.std(0, correction=0)
    return features.mean(0), torch.where(scale > 0, scale, torch.ones_like(scale))


def fit_logistic(features: Tensor, labels: Tensor, classes: int, c: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Fit a multinomial logistic regression.

    .. math:: \min_{W, b} \; c \sum_n \mathrm{CE}(W x_n + b, y_n) + \tfrac12 \|W\|^2

    Args:
        features: ``[N, D]``.
        labels: In ``[0, classes)``, ``[N]`` int64.
        classes: Number of classes, ``K``.
        c: Inverse weight of the penalty, positive.

    Returns:
        ``W [K, D]`` and ``b [K]``, float64.

    Example:
        >>> weight, bias = fit_logistic(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), classes=2)
        >>> (torch.tensor([[2.0]]).double() @ weight.T + bias).argmax().item()
        1
    """
    x = features.detach().double()
    weight, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)

    def loss() -> Tensor:
        return c * F.cross_entropy(F.linear(x, weight, bias), labels, reduction="sum") + weight.square().sum() / 2

    return _minimised(loss, [weight, bias])


def probe_direction(positive: Tensor, negative: Tensor, c: float = 1.0) -> Tensor:
    r"""Unit vector along which a logistic regression tells two sets apart, as the weights of the raw features.

    .. math:: \min_{w, b} \; c \sum_n \log\bigl(1 + e^{-y_n (w \cdot x_n + b)}\bigr) + \tfrac12 \|w\|^2

    on standardised features :math:`x = (h - m) / s`, and then :math:`w / s`, divided by its length. It points to
    ``positive``.

    Args:
        positive: ``[N, D]``.
        negative: ``[M, D]``.
        c: Inverse weight of the penalty, positive.

    Returns:
        ``[D]`` float64; zeros, if the means are equal to the last digit.

    Example:
        >>> probe_direction(torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[-3.0, 0.0], [-1.0, 0.0]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    features = torch.cat([positive, negative]).detach().double()
    mean, scale = standardise(features)
    x = (features - mean) / scale
    sign = torch.cat([x.new_ones(len(positive)), -x.new_ones(len(negative))])
    weight, bias = x.new_zeros(x.shape[1]), x.new_zeros(())

    def loss() -> Tensor:
        return c * F.softplus(-sign * (x @ weight + bias)).sum() + weight.square().sum() / 2

    weight, _ = _minimised(loss, [weight, bias])
    return F.normalize(weight / scale, dim=0)


def _minimised(loss: Callable[[], Tensor], tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    for tensor in tensors:
        tensor.requires_grad_()
    optimizer = torch.optim.LBFGS(
        tensors, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    first, second = (tensor.detach() for tensor in tensors)
    return first, second
