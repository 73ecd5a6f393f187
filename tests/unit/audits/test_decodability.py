"""Fresh probes: what they read, and what the probe that took part in training cannot tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_unlearn.audits import Decodability, decodability
from lightning_unlearn.objectives import GradientReversalProbe
from lightning_unlearn.prediction import Prediction


def clusters(rows, *, classes=4, width=8, noise=0.2, seed=0):
    """Prompts about ``classes`` things: another ``seed`` gives other prompts about the same."""
    centers = torch.randn(classes, width, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    return centers[labels] + noise * torch.randn(rows, width, generator=generator), labels


def test_what_is_there_is_read_from_other_prompts():
    found = decodability(clusters(40), clusters(40, seed=1))
    assert found == Decodability(linear=1.0, mlp=1.0, chance=0.25)


def test_noise_reads_as_chance():
    generator = torch.Generator().manual_seed(0)
    train, held_out = ((torch.randn(400, 8, generator=generator), torch.arange(400) % 4) for _ in range(2))
    found = decodability(train, held_out, hidden=16)
    assert found.linear == pytest.approx(0.25, abs=0.07)
    assert found.mlp == pytest.approx(0.25, abs=0.07)


def test_a_hidden_layer_reads_what_no_line_separates():
    generator = torch.Generator().manual_seed(0)

    def exclusive_or(rows):
        states = torch.randn(rows, 2, generator=generator)
        return states, (states.prod(1) > 0).long()

    found = decodability(exclusive_or(300), exclusive_or(300))
    assert found.mlp > 0.9
    assert found.linear < 0.65


def reversed_by(live, steps, *, rate):
    """Train an encoder against a live probe, by turns, and give what it makes of new prompts, and the probe's accuracy."""
    states, labels = clusters(40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, probe = nn.Linear(8, 8), nn.Linear(8, 4)
    objective = GradientReversalProbe()
    objective.face(probe, torch.arange(4), strength=1.0)
    ours, theirs = torch.optim.Adam(encoder.parameters(), rate), torch.optim.Adam(probe.parameters(), live)
    for _ in range(steps):
        features = encoder(states)
        ours.zero_grad()
        objective(Prediction(features[:, :0], labels, torch.arange(40), 40, features)).backward()
        ours.step()
        seen, classes = objective.take_seen()
        theirs.zero_grad()
        F.cross_entropy(probe(seen), classes).backward()
        theirs.step()
    with torch.no_grad():
        accuracy = float((probe(encoder(states)).argmax(1) == labels).float().mean())
        return (encoder(states), labels), (encoder(clusters(40, seed=1)[0]), labels), accuracy


def test_a_live_probe_that_lost_the_race_proves_nothing():
    train, held_out, live = reversed_by(1e-3, 60, rate=3e-2)
    found = decodability(train, held_out)
    assert live <= found.chance
    assert found.linear == 1.0
    assert found.mlp == 1.0


def test_nothing_is_drawn_and_the_same_seed_says_the_same():
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = (decodability(clusters(20, noise=1.5), clusters(20, noise=1.5, seed=1), seed=3) for _ in "ab")
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_tested_is_refused():
    states, labels = clusters(8)
    with pytest.raises(ValueError, match=r"of one width, and at least one each. Found shapes \(8, 8\) and \(8, 7\)"):
        decodability((states, labels), (states[:, 1:], labels))
    with pytest.raises(ValueError, match=r"at least one each. Found shapes \(8, 8\) and \(0, 8\)"):
        decodability((states, labels), (states[:0], labels[:0]))
    with pytest.raises(ValueError, match="Found 1 others, 3 first. Hold out prompts, not facts"):
        decodability((states[labels < 3], labels[labels < 3]), (states, labels))
    with pytest.raises(ValueError, match="`hidden` should be at least 1"):
        decodability((states, labels), (states, labels), hidden=0)
