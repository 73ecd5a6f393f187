"""Turning hidden states away from what they were, from a start at which nothing pushes."""

from __future__ import annotations

import pytest
import torch
from _language_models import batch, family
from _states import states
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.objectives import ActivationMatch, RepresentationDeviation
from lightning_unlearn.readouts import LayersReadout

READOUT = LayersReadout([r"layers\.[01]"])


def turned(objective, optimizer, steps, dtype=torch.float64):
    """Mean of 1 - cos over tokens and layers, after training on nothing but the objective."""
    network = family("llama").to(dtype)
    original = READOUT(network, batch()).detach()
    optimizer = optimizer(network.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        objective(READOUT(network, batch()), original).backward()
        optimizer.step()
    now = READOUT(network, batch()).features.detach()
    return float(1 - F.cosine_similarity(now, original.features, dim=-1).mean())


def gradient_norm(objective):
    network = family("llama").double()
    read = READOUT(network, batch())
    objective(read, read.detach()).backward()
    return torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()


def sgd(params):
    return torch.optim.SGD(params, lr=0.02)


def test_without_jitter_the_start_is_stationary():
    assert gradient_norm(RepresentationDeviation(jitter=0.0)) < 1e-13
    assert turned(RepresentationDeviation(jitter=0.0), sgd, 50) < 1e-6


def test_with_jitter_plain_sgd_leaves_the_start():
    assert gradient_norm(RepresentationDeviation()) > 1e-5
    assert turned(RepresentationDeviation(), sgd, 50) > 0.5


def test_with_jitter_adam_does_not_follow_rounding_errors():
    """The signs of the first step are the same in both precisions; without jitter many are not."""

    def signs(jitter, dtype):
        network = family("llama").to(dtype)
        read = READOUT(network, batch())
        RepresentationDeviation(jitter=jitter)(read, read.detach()).backward()
        return torch.cat([p.grad.sign().flatten() for p in network.parameters() if p.grad is not None])

    def agreement(jitter):
        exact, rounded = signs(jitter, torch.float64), signs(jitter, torch.float32)
        moves = exact != 0
        return float((exact[moves] == rounded[moves]).double().mean())

    assert agreement(1e-3) > 0.99
    assert agreement(0.0) < 0.8


def test_the_jitter_is_that_of_its_seed():
    student, original = states(layers=2), states(layers=2, seed=1)
    first, second, other = (RepresentationDeviation(jitter=0.1, seed=s)(student, original) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_bounds_are_those_of_the_cosine():
    student = states(layers=2)
    opposite = states(layers=2)
    opposite.features.data.neg_()
    objective = RepresentationDeviation(temperature=0.5, jitter=0.0)
    assert_close(objective(student, student.detach()), torch.tensor(2.0, dtype=torch.float64))
    assert_close(objective(student, opposite), torch.tensor(-2.0, dtype=torch.float64))


def test_the_original_gets_no_gradient():
    student, original = states(layers=2), states(layers=2, seed=1)
    RepresentationDeviation()(student, original).backward()
    assert original.features.grad is None


def test_alone_under_adam_the_temperature_means_nothing():
    moved = [
        turned(RepresentationDeviation(temperature=t), lambda p: torch.optim.Adam(p, 1e-2, eps=1e-30), 10)
        for t in (1.0, 10.0)
    ]
    assert moved[0] == pytest.approx(moved[1], rel=1e-6)
    assert moved[0] > 0.1


def test_one_layer_is_a_window_of_one():
    student, original = states(), states(seed=1)
    assert RepresentationDeviation()(student, original).shape == ()


def test_settings_and_references_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="`temperature` should be positive and finite"):
        RepresentationDeviation(temperature=0.0)
    with pytest.raises(ValueError, match="`jitter` should be finite and not negative"):
        RepresentationDeviation(jitter=-1e-3)
    for objective in (RepresentationDeviation(), ActivationMatch()):
        with pytest.raises(ValueError, match=r"reference of the same layers.* \(9, 2, 6\).* Found \(9, 1, 6\)"):
            objective(states(layers=2), states())
        with pytest.raises(ValueError, match="what the original model said of the same rows"):
            objective(states(layers=2))
