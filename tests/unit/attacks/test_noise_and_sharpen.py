"""Noise and one normalised step: their size, their oracles, and what half precision makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from _attacked_network import batches, loss_of, network
from torch import nn
from torch.testing import assert_close

from lightning_unlearn import Noise, Sharpen
from lightning_unlearn.attacks._perturbed import RealisedShare, move_
from lightning_unlearn.engine import GradientEngine


def test_noise_is_relative_to_the_scale_of_each_tensor() -> None:
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    with torch.no_grad():
        net[1].weight.mul_(1000)
        net[1].bias.zero_()
    before = [p.detach().clone() for p in net.parameters()]
    with Noise(0.1)(net):
        for p, old in zip(net.parameters(), before, strict=True):
            length = 0.1 * old.norm().item()
            assert (p - old).norm().item() == pytest.approx(length, rel=0.2 if p.dim() == 1 else 0.02)
        assert not net[1].bias.any()


def test_noise_has_mean_zero_over_draws() -> None:
    layer, generator = nn.Linear(20, 20, bias=False), torch.Generator().manual_seed(0)
    before, total, draws = layer.weight.detach().clone(), torch.zeros(20, 20), 400
    for _ in range(draws):
        with Noise(1.0).drawn(generator)(layer):
            total += layer.weight.detach() - before
    size = before.square().mean().sqrt()
    assert (total / draws / size).std().item() == pytest.approx(draws**-0.5, rel=0.15)
    assert abs((total / draws / size).mean().item()) < 4 / (20 * draws**0.5)


def test_noise_is_the_same_whatever_the_global_random_state() -> None:
    layer, seen = nn.Linear(4, 4), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with Noise(0.3, seed=7)(layer):
            seen.append(layer.weight.detach().clone())
    assert torch.equal(*seen)


def test_the_gradient_where_sharpen_leads_is_that_of_sam_by_hand() -> None:
    r"""Of :math:`\theta^\top H \theta / 2` it is :math:`H (\theta - \rho H \theta / |H \theta|)`."""
    torch.manual_seed(0)
    half = torch.randn(6, 6, dtype=torch.float64)
    hessian, layer = half @ half.T, nn.Linear(6, 1, bias=False, dtype=torch.float64)
    theta = layer.weight.detach().clone().flatten()

    def loss(scale: float) -> torch.Tensor:
        w = layer.weight.flatten()
        return scale * (w @ hessian @ w) / 2

    engine = GradientEngine(layer)
    # Two batches whose mean is the loss: the length of the step is of their mean gradient.
    with Sharpen(0.7)(layer, batches=[0.5, 1.5], loss=loss, engine=engine):
        row, _ = engine.row(loss, [1.0], [layer.weight])
    step = hessian @ theta
    by_hand = hessian @ (theta - 0.7 * step / step.norm())
    assert_close(row[0], by_hand[None], rtol=0, atol=1e-6)


def test_sharpen_lowers_the_loss_of_the_attacker_and_with_no_length_changes_no_bit() -> None:
    net, own = network().eval(), batches(1)
    before = loss_of(net)(own[0]).item()
    with Sharpen(0.1)(net, batches=own, loss=loss_of(net)):
        assert loss_of(net)(own[0]).item() < before
    with Sharpen(0.0)(net, batches=own, loss=loss_of(net)):
        assert loss_of(net)(own[0]).item() == before


@pytest.mark.parametrize(
    ("factor", "error", "match"),
    [(0.0, ValueError, "Found one of zeros"), (float("nan"), FloatingPointError, "Found a length of nan")],
)
def test_sharpen_refuses_a_gradient_without_a_direction(factor: float, error: Any, match: str) -> None:
    layer = nn.Linear(2, 1)
    with pytest.raises(error, match=f"`Sharpen` should get a gradient to step along. {match}"):
        Sharpen()(layer, batches=[torch.ones(2)], loss=lambda x: factor * layer(x).sum()).__enter__()


def weights(size: int = 1 << 20) -> torch.Tensor:
    """As in a language model: standard deviation 0.02."""
    return (0.02 * torch.randn(size, generator=torch.Generator().manual_seed(0))).bfloat16()


def test_bf16_swallows_the_published_sam_step_and_a_warning_says_so() -> None:
    """A length of 0.01 over 7e9 weights is 1.2e-7 each, and of a Gaussian gradient less than a hundredth arrives."""
    weight, share = weights(), RealisedShare("it")
    step = 1.2e-7 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    share.add(step, (weight.float() + step).bfloat16().float() - weight.float())
    assert share.value < 0.02
    with pytest.warns(UserWarning, match="The step of `Sharpen` should reach the weights.*more than half of it"):
        move_([weight], [step], "`Sharpen`")


SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "Gaussian": lambda draw, size: draw.standard_normal(size),
    "Student-t, 2.5": lambda draw, size: draw.standard_t(2.5, size),
    "log-normal, 2": lambda draw, size: draw.lognormal(0, 2, size) * draw.choice([-1, 1], size),
}


@pytest.mark.parametrize(
    ("parameters", "shape", "least", "most"),
    [
        *[(7e9, "Gaussian", 0.003, 0.005), (7e9, "Student-t, 2.5", 0.02, 0.2), (7e9, "log-normal, 2", 0.25, 0.45)],
        *[(135e6, "Gaussian", 0.02, 0.04), (135e6, "Student-t, 2.5", 0.15, 0.35), (135e6, "log-normal, 2", 0.5, 0.7)],
    ],
)
def test_how_much_of_the_published_sam_step_arrives_depends_on_the_gradients_tail(
    parameters: float, shape: str, least: float, most: float
) -> None:
    """A length of 0.01 over all: what is large in a heavy tail arrives, what is small is swallowed.

    Of Student's t the largest few decide, so that draws differ from each other.
    """
    weight, share = weights(), RealisedShare("it")
    gradient = torch.from_numpy(SHAPES[shape](np.random.default_rng(0), len(weight))).float()
    step = gradient / gradient.square().mean().sqrt() * 0.01 / parameters**0.5
    share.add(step, (weight.float() + step).bfloat16().float() - weight.float())
    assert least < share.value < most


def test_published_noise_survives_bf16_but_subtracting_it_would_not_restore_the_weights() -> None:
    weight = weights()
    noise = 1e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    there = (weight.float() + noise).bfloat16()
    share = RealisedShare("it")
    share.add(noise, there.float() - weight.float())
    assert share.value == pytest.approx(0.99, abs=0.02)
    back = (there - noise.bfloat16()) != weight
    assert 0.005 < back.float().mean().item() < 0.2
    layer = nn.Linear(1, len(weight), bias=False).bfloat16()
    with torch.no_grad():
        layer.weight.copy_(weight[:, None])
    with Noise(0.005)(layer):
        assert not torch.equal(layer.weight[:, 0], weight)
    assert torch.equal(layer.weight[:, 0], weight)


def test_nothing_is_lost_in_float32_and_a_float64_weight_keeps_its_digits() -> None:
    layer = nn.Linear(3, 3, dtype=torch.float64)
    with Noise(0.0)(layer):  # a zero is added
        pass
    before = layer.weight.detach().clone()
    with Sharpen(1e-12)(layer, batches=[torch.ones(3, dtype=torch.float64)], loss=lambda x: layer(x).sum()):
        assert (layer.weight - before).norm().item() == pytest.approx(1e-12 * (9 / 12) ** 0.5, rel=1e-3)
