"""Closing the gap along the direction of a probe: what the gradient is, and what the result does not show."""

from __future__ import annotations

import io

import pytest
import torch
from _states import pairs, states, with_features
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.functional.logistic import fit_logistic, probe_direction, standardise
from lightning_unlearn.objectives import ProbeAlignment
from lightning_unlearn.readouts import PairedPrediction


def paired(memorised, controls):
    """One row per example."""
    features, size = torch.cat([memorised, controls]), 2 * len(memorised)
    rows = torch.arange(size)
    return PairedPrediction(features[:, :0], torch.zeros_like(rows), rows, size, features)


def noise(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_has_no_component_across_the_direction(dtype):
    student, objective = pairs((3, 2, 4, 1), layers=2, dtype=dtype), ProbeAlignment()
    directions = F.normalize(noise(2, 6, 1), dim=-1).to(dtype)
    objective.align_along(directions)
    (gradient,) = torch.autograd.grad(objective(student), student.features)
    along = (gradient * directions).sum(-1, keepdim=True) * directions
    assert along.abs().max() > 0.1
    assert (gradient - along).abs().max() < {torch.float32: 1e-6, torch.float64: 1e-15}[dtype]


def test_the_last_token_of_each_is_compared():
    student, objective = pairs((3, 2, 4, 1), layers=2), ProbeAlignment()
    objective.align_along(F.normalize(noise(2, 6, 1), dim=-1))
    (gradient,) = torch.autograd.grad(objective(student), student.features)
    assert (gradient.abs().sum((1, 2)) > 0).nonzero()[:, 0].tolist() == [2, 4, 8, 9]
    last = objective.last_states(student)
    assert torch.equal(last.forget, student.features[[2, 4]])
    assert torch.equal(last.companion, student.features[[8, 9]])


def aligned(memorised, controls, *, rounds=6, steps=10):
    """Hidden states themselves as what is trained: a fit of free parameters, refitted ``rounds`` times."""
    student = with_features(paired(memorised, controls), torch.cat([memorised, controls]).requires_grad_())
    objective = ProbeAlignment()
    optimizer = torch.optim.SGD([student.features], lr=len(memorised) / 4)
    for _ in range(rounds):
        last = objective.last_states(student)
        objective.align_along(probe_direction(last.forget[:, 0], last.companion[:, 0])[None])
        for _ in range(steps):
            optimizer.zero_grad()
            objective(student).backward()
            optimizer.step()
    return student.features.detach().chunk(2)


def accuracy_left_out(memorised, controls):
    """Leave one pair out, as the authors audit."""
    right = 0
    for left_out in range(len(memorised)):
        rest = torch.arange(len(memorised)) != left_out
        right += accuracy((memorised[rest], controls[rest]), (memorised[[left_out]], controls[[left_out]]))
    return right / len(memorised)


def accuracy(train, test):
    """Of the authors' probe: standardised features, C = 1. (Two classes share the penalty, hence the half.)"""
    x, new = (torch.cat(both) for both in (train, test))
    mean, scale = standardise(x)
    weight, bias = fit_logistic((x - mean) / scale, torch.tensor([1] * len(train[0]) + [0] * len(train[1])), 2, c=0.5)
    said = (((new - mean) / scale) @ weight.T + bias).argmax(1)
    return float((said == torch.tensor([1] * len(test[0]) + [0] * len(test[1]))).double().mean())


def test_left_out_pairs_of_the_aligned_pool_prove_no_erasure():
    """On seven pairs with a strong signal: the published audit falls far below chance, other pairs still show it all."""
    signal = 8 * F.normalize(noise(1, 128, 7), dim=-1)
    memorised, controls = noise(7, 128, 1) + signal, noise(7, 128, 2)
    fresh = [(noise(30, 128, seed) + signal, noise(30, 128, seed + 1)) for seed in (11, 21)]
    assert accuracy_left_out(memorised, controls) > 0.9
    assert accuracy_left_out(*aligned(memorised, controls)) < 0.15
    assert accuracy(*fresh) > 0.95


def test_pure_noise_that_was_aligned_reads_below_chance_as_well():
    read = [accuracy_left_out(*aligned(noise(7, 128, s), noise(7, 128, s + 50))) for s in range(2)]
    assert max(read) < 0.15


def test_directions_are_in_the_state():
    objective, fresh = ProbeAlignment(), ProbeAlignment()
    objective.align_along(noise(2, 6, 1))
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    student = pairs(layers=2)
    assert_close(fresh(student), objective(student), rtol=1e-6, atol=0)
    fresh.load_state_dict(ProbeAlignment().state_dict())  # before the first batch


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"should know along which directions.*`RefitProbeDirections\(\)`"):
        ProbeAlignment()(pairs(layers=2))
    objective = ProbeAlignment()
    objective.align_along(noise(3, 6, 1))
    with pytest.raises(ValueError, match=r"of the layers of its directions, \(3, 6\), \[L, D\]. Found \(2, 6\)"):
        objective(pairs(layers=2))
    with pytest.raises(
        ValueError, match=r"`ProbeAlignment` should get what must go and a companion.*PairedReadout\(\)"
    ):
        objective(states(layers=2))
