"""The control of `SpectralCollapse`: with eight random directions taken out, relearning brings back what it does without."""

from __future__ import annotations

import copy
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.functional.bisection import largest_scale
from lightning_unlearn.transforms import GradientTransform, SpectralCollapse

INPUTS, HIDDEN, CLASSES, FORGET, FACTS = 32, 64, 16, 24, 72
KL = 0.1


class TakesOutRandomDirections(GradientTransform):
    """Eight random directions of the inputs of each matrix."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def changes(self, param: Tensor) -> bool:
        return param.dim() == 2

    def of(self, gradient: Tensor, param: Tensor) -> Tensor:
        directions, _ = torch.linalg.qr(torch.randn(gradient.shape[1], 8, generator=self.generator))
        return gradient - gradient @ directions @ directions.T


def facts(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs and classes; those to forget, which come first, have four directions in common."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(FACTS, INPUTS, generator=generator), torch.randint(0, CLASSES, (FACTS,), generator=generator)
    common = torch.randn(4, INPUTS, generator=generator)
    x[:FORGET] += torch.randn(FORGET, 4, generator=generator) @ common
    return x, y


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


@torch.no_grad()
def probability(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(net(x).softmax(-1).gather(1, y[:, None]).mean())


def forget_(net: nn.Module, x: Tensor, y: Tensor, transform: GradientTransform | None) -> None:
    """One step up the loss of what must go, in matrices alone, as far as the budget on the rest allows."""
    params = list(net.parameters())
    # Softened: of probabilities near one the gradient would be next to nothing.
    row: Any = list(torch.autograd.grad(F.cross_entropy(net(x[:FORGET]) / 4, y[:FORGET]), params))
    if transform is not None:
        transform.attach(net)
        row = transform(row, params)
    start = [p.detach().clone() for p in params]
    with torch.no_grad():
        original = net(x[FORGET:]).log_softmax(-1)

    @torch.no_grad()
    def divergence(scale: float) -> float:
        for p, before, g in zip(params, start, row, strict=True):
            p.copy_(before + scale * g if p.dim() == 2 else before)
        return float(F.kl_div(net(x[FORGET:]).log_softmax(-1), original, log_target=True, reduction="batchmean"))

    divergence(largest_scale(divergence, KL, closeness=0.999))


def brought_back(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """By how much relearning every other fact raises the probability of the others, at the best point."""
    there, asked = slice(0, FORGET, 2), slice(1, FORGET, 2)
    before, best = probability(net, x[asked], y[asked]), 0.0
    for lr in (1e-3, 3e-3):
        attacked = copy.deepcopy(net)
        for _ in range(10):
            train(attacked, x[there], y[there], 2, lr)
            best = max(best, probability(attacked, x[asked], y[asked]) - before)
    return best


def recovery(seed: int, transform: GradientTransform | None) -> float:
    x, y = facts(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, CLASSES)
    )
    train(net, x, y, 200, 3e-3)
    forget_(net, x, y, transform)
    return brought_back(net, x, y)


@pytest.mark.slow
def test_random_directions_are_as_bad_as_none_and_the_largest_are_not() -> None:
    """At one budget, of three worlds. It is about what comes back: with the largest taken out less is forgotten, too."""
    seeds = range(3)
    plain = [recovery(seed, None) for seed in seeds]
    random = [recovery(seed, TakesOutRandomDirections(seed)) for seed in seeds]
    largest = [recovery(seed, SpectralCollapse(q=8, pattern="weight")) for seed in seeds]
    assert min(plain) > 0.1
    assert fmean(random) == pytest.approx(fmean(plain), abs=0.08)
    assert fmean(largest) < 0.3 * fmean(plain)
