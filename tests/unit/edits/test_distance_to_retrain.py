"""Each edit against training again without the forget data: a convex model, and a small network."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from edit_distance import CLASSES, DECAY, Retrained, convex, small_network
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.edits import (
    Dampen,
    DampenUnlabelled,
    NegateTaskVector,
    NewtonInfluence,
    OneStepAscent,
    ProjectNeurons,
    ResetNeurons,
    SignAscent,
    distance_to_retrained,
)
from lightning_unlearn.functional.conjugate_gradients import conjugate_gradients
from lightning_unlearn.readouts import ClassificationReadout


@pytest.fixture(scope="module")
def problem() -> Retrained:
    return convex()


@pytest.fixture(scope="module")
def network() -> Retrained:
    return small_network()


def test_no_edit_is_as_far_as_the_original_and_the_retrained_network_is_there(problem: Retrained) -> None:
    nothing = problem.distance(None)
    assert (nothing.weights, nothing.predictions, nothing.cosine) == (1.0, 1.0, 0.0)
    batches, readout = problem.retain, ClassificationReadout()
    there = distance_to_retrained(
        problem.retrained, original=problem.original, retrained=problem.retrained, batches=batches, readout=readout
    )
    assert (there.weights, there.predictions) == (0.0, 0.0)
    assert there.cosine == pytest.approx(1)


def test_newton_arrives_nearer_than_any_step_along_a_gradient(problem: Retrained) -> None:
    newton = problem.distance(NewtonInfluence(decay=DECAY))
    steps = [problem.distance(OneStepAscent(lr=lr)) for lr in (0.5, 1, 2, 4)]
    assert newton.weights < 0.3
    assert newton.predictions < 0.1
    assert newton.cosine > 0.99
    assert newton.weights < min(step.weights for step in steps) / 1.5
    assert all(step.cosine < 0.9 for step in steps)


def test_the_published_step_by_sign_gets_nowhere_where_a_line_search_gets_half_way(problem: Retrained) -> None:
    assert problem.distance(SignAscent(lr=1e-3)).weights > 0.99
    assert problem.distance(OneStepAscent(lr=2.0)).weights < 0.6
    assert problem.distance(SignAscent(lr=1e-3)).cosine < problem.distance(OneStepAscent()).cosine


def test_the_less_is_forgotten_the_nearer_one_newton_step_arrives() -> None:
    left = [convex(forget=n).distance(NewtonInfluence(decay=DECAY)).weights for n in (4, 8, 16)]
    assert left == sorted(left)


def test_newton_is_the_solution_of_the_dense_system(problem: Retrained) -> None:
    """The Hessian by automatic differentiation, and a direct solver."""
    x, y = (torch.cat(parts) for parts in zip(*problem.retain, strict=True))
    u, v = (torch.cat(parts) for parts in zip(*problem.forget, strict=True))
    start = torch.cat([problem.original.weight.detach(), problem.original.bias.detach()[:, None]], 1).flatten()

    def loss(theta: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, decay: float) -> torch.Tensor:
        matrix = theta.view(CLASSES, -1)
        logits = inputs @ matrix[:, :-1].T + matrix[:, -1]
        return F.cross_entropy(logits, labels, reduction="sum") + decay * len(inputs) / 2 * theta.square().sum()

    hessian = torch.func.hessian(loss)(start, x, y, DECAY)
    expected = start + torch.linalg.solve(hessian, torch.func.grad(loss)(start, u, v, 0.0))
    edited = deepcopy(problem.original)
    NewtonInfluence(decay=DECAY)(edited, forget=problem.forget, retain=problem.retain, readout=ClassificationReadout())
    found = torch.cat([edited.weight, edited.bias[:, None]], 1).flatten()
    assert_close(found.detach(), expected, rtol=1e-7, atol=1e-9)


def test_newton_moves_the_head_alone(network: Retrained) -> None:
    edited = deepcopy(network.original)
    data = {"forget": network.forget, "retain": network.retain, "readout": ClassificationReadout()}
    record = NewtonInfluence(decay=DECAY)(edited, **data)
    assert record.tensors == 2
    assert torch.equal(edited[0].weight, network.original[0].weight)
    with pytest.raises(ValueError, match="Found that those of `0` are not"):
        NewtonInfluence(layer="0")(edited, **data)
    with pytest.raises(ValueError, match="Found none for 'head'. There are `0`, `2`"):
        NewtonInfluence(layer="head")(edited, **data)
    scaled = nn.Sequential(*edited, nn.Softsign())
    with pytest.raises(ValueError, match="a network that scales or moves its logits is not a linear classifier"):
        NewtonInfluence()(scaled, **data)


def test_an_example_that_is_not_supervised_is_none(problem: Retrained) -> None:
    one, other = deepcopy(problem.original), deepcopy(problem.original)
    readout = ClassificationReadout()
    noise = torch.full((2, 6), 7.0, dtype=torch.float64)
    padded = [(torch.cat([noise, x]), torch.cat([torch.tensor([-100, -100]), y])) for x, y in problem.forget]
    NewtonInfluence()(one, forget=problem.forget, retain=problem.retain, readout=readout)
    NewtonInfluence()(other, forget=padded, retain=problem.retain, readout=readout)
    assert_close(one.weight, other.weight)


def test_in_a_small_network_what_works_comes_nearer_in_its_predictions(network: Retrained) -> None:
    """And what is known to be brittle does not: that is reported, not hidden."""
    assert network.distance(NewtonInfluence(decay=DECAY)).predictions < 0.9
    assert network.distance(OneStepAscent(lr=1.0, weighting="sum")).predictions < 1
    for brittle in (Dampen(alpha=2.0), DampenUnlabelled(alpha=1.5), ResetNeurons(0.5), ProjectNeurons("0", 0.5)):
        assert network.distance(brittle).predictions > 0.9


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_a_vector_that_is_what_must_go_takes_the_network_to_the_retrained_one(
    scale: float, problem: Retrained, tmp_path: Path
) -> None:
    there = dict(problem.retrained.named_parameters())
    beyond = {name: (2 * p - there[name]).detach() for name, p in problem.original.named_parameters()}
    save_file(beyond, tmp_path / "beyond.safetensors")
    found = problem.distance(NegateTaskVector(finetuned=str(tmp_path / "beyond.safetensors"), scale=scale))
    assert found.weights == pytest.approx(1 - scale, abs=1e-9)
    assert found.cosine == pytest.approx(1)


def test_a_vector_of_fine_tuning_on_what_must_go_points_to_the_retrained_network(
    problem: Retrained, tmp_path: Path
) -> None:
    """A short one, of plain steps: it begins as the gradient does, and too much of it leads past."""
    tuned = deepcopy(problem.original)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.05)
    for _ in range(4):
        for x, y in problem.forget:
            optimizer.zero_grad()
            F.cross_entropy(tuned(x), y).backward()
            optimizer.step()
    save_file({name: p.detach() for name, p in tuned.named_parameters()}, tmp_path / "tuned.safetensors")
    edits = {
        scale: NegateTaskVector(finetuned=str(tmp_path / "tuned.safetensors"), scale=scale) for scale in (1.0, 50.0)
    }
    short, long = (problem.distance(edit) for edit in edits.values())
    assert short.cosine > 0.5
    assert short.weights < 1 < long.weights


def test_conjugate_gradients_stop_at_the_solution_and_take_no_zero_over_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(7), torch.randn(7, generator=generator, dtype=torch.float64)
    calls: list[int] = []

    def product(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return matrix @ x

    found = conjugate_gradients(product, right, steps=100, tolerance=1e-10)
    assert_close(found, torch.linalg.solve(matrix, right))
    assert len(calls) <= 10
    assert torch.equal(conjugate_gradients(product, torch.zeros(7), steps=5), torch.zeros(7))
