"""How much of an attacker's step weights in bfloat16 swallow: `research/methods-c.md`, 18. Why `Relearn` has masters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.attacks._perturbed import RealisedShare

SIZE = 1 << 18


def one_step(make: Callable[[Any], torch.optim.Optimizer], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights as in a language model, before and after a step along a Gaussian gradient of 0.001."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter((0.02 * torch.randn(SIZE, generator=generator)).bfloat16().to(dtype))
    before = weight.detach().float().clone()
    weight.grad = (1e-3 * torch.randn(SIZE, generator=generator)).to(dtype)
    make([weight]).step()
    return before, weight.detach().float()


def moved_and_realised(make: Callable[[Any], torch.optim.Optimizer]) -> tuple[float, float]:
    """The share of the weights that move, and how much of the step in float32 is taken."""
    before, after = one_step(make, torch.bfloat16)
    _, exact = one_step(make, torch.float32)
    share = RealisedShare("it")
    share.add(exact - before, after - before)
    return float((after != before).float().mean()), share.value


@pytest.mark.parametrize(
    ("lr", "moved", "realised"),
    [(7e-6, 0.08, 0.08), (1e-5, 0.15, 0.165), (2e-5, 0.30, 0.32), (1e-4, 0.88, 1.0), (2e-4, 0.998, 1.0)],
)
def test_bfloat16_shields_from_adam_at_small_rates_and_not_at_large_ones(
    lr: float, moved: float, realised: float
) -> None:
    """So it does not only weaken an attack: it changes which rate is the worst."""
    found = moved_and_realised(lambda params: torch.optim.AdamW(params, lr=lr, weight_decay=0.0))
    assert found == (pytest.approx(moved, rel=0.25), pytest.approx(realised, rel=0.25))


def test_of_plain_gradient_descent_next_to_nothing_arrives() -> None:
    moved, realised = moved_and_realised(lambda params: torch.optim.SGD(params, lr=1e-5))
    assert max(moved, realised) < 1e-3
