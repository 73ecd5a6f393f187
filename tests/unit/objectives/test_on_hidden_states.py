"""What every objective on hidden states promises. A new one joins ``ON_STATES``; `test_rmu.py` has the two oldest."""

from __future__ import annotations

from cmath import exp, log, sqrt
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from _predictions import interleaving
from _states import WIDTH, in_order_of, pairs, states, with_features
from jsonargparse import ArgumentParser
from torch.testing import assert_close

from lightning_unlearn.objectives import (
    EncodedMatch,
    GradientReversalProbe,
    Objective,
    ProbeAlignment,
    RepresentationDeviation,
)
from lightning_unlearn.objectives.encoders import LatentTargets
from lightning_unlearn.prediction import Prediction

STEP = 1e-30
STRENGTH = 0.7
GENERATOR = torch.Generator().manual_seed(4)
UNKNOWN, KNOWN, DIRECTIONS, WEIGHT = (
    torch.randn(n, WIDTH, generator=GENERATOR, dtype=torch.float64) for n in (1, 1, 2, 3)
)
CHOSEN = [0, 2, 3, 5]
SCALE = [0.5, 1.0, 2.0, 1.5]
LABELS = [0, 2, 3]  # label 1 has no class
BIAS = [0.1, -0.2, 0.3]


@dataclass
class Subject:
    """An objective, ready to be asked, and the same as a loop over Python numbers. ``sign`` multiplies its gradient."""

    make: Callable[[], Objective]
    oracle: Callable[..., complex]
    sample: Callable[..., Prediction] = states
    settings: str = ""
    sign: float = 1.0

    def __str__(self) -> str:
        return repr(self.make())


def rows_of(example: list[int], size: int) -> list[list[int]]:
    return [[n for n, e in enumerate(example) if e == number] for number in range(size)]


def per_example(values: list[complex], example: list[int], size: int) -> complex:
    answers = [sum(values[n] for n in rows) / len(rows) for rows in rows_of(example, size) if rows]
    return sum(answers) / len(answers)


def encoded_match(**kwargs: float) -> Objective:
    objective = EncodedMatch(**kwargs)
    center = (UNKNOWN[0, CHOSEN], KNOWN[0, CHOSEN])
    objective.aim(LatentTargets(torch.tensor(CHOSEN), *center, torch.tensor(SCALE, dtype=torch.float64)))
    return objective


def encoded_match_by_loops(said, rho: float, margin: float) -> complex:
    def distance(row, center):
        return sum(((row[j] - center[j]) / s) ** 2 for j, s in zip(CHOSEN, SCALE, strict=True)) / len(CHOSEN)

    terms = []
    for row in said.rows:
        near, far = (distance(row, center[0].tolist()) for center in (UNKNOWN, KNOWN))
        closer = margin + near - far
        terms.append(near + (rho * closer if closer.real > 0 else 0))
    return per_example(terms, said.example, said.size)


def representation_deviation_by_loops(said, temperature: float, jitter: float, seed: int) -> complex:
    drawn = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    terms = []
    for row, before in zip(said.rows, said.original, strict=True):
        cosines = []
        for layer in range(2):
            h, r = (x[layer * WIDTH : (layer + 1) * WIDTH] for x in (row, before))
            u = drawn[layer]
            size, length = (sum(x * x for x in v) ** 0.5 for v in (r, u))
            r = [a + jitter * size * b / length for a, b in zip(r, u, strict=True)]
            dot = sum(a * b for a, b in zip(h, r, strict=True))
            cosines.append(dot / sqrt(sum(a * a for a in h)) / sum(b * b for b in r) ** 0.5)
        terms.append(sum(cosines) / 2)
    return per_example(terms, said.example, said.size) / temperature


def gradient_reversal_probe() -> Objective:
    # Without its own start values: they would be drawn from the global random numbers.
    probe = torch.nn.utils.skip_init(torch.nn.Linear, WIDTH, 3, dtype=torch.float64)
    with torch.no_grad():
        probe.weight.copy_(WEIGHT)
        probe.bias.copy_(torch.tensor(BIAS))
    objective = GradientReversalProbe()
    objective.face(probe, torch.tensor(LABELS), STRENGTH)
    return objective


def gradient_reversal_by_loops(said) -> complex:
    losses = []
    for row, label in zip(said.rows, said.labels, strict=True):
        if label in LABELS:
            scores = [
                sum(w * h for w, h in zip(ws, row, strict=True)) + b
                for ws, b in zip(WEIGHT.tolist(), torch.tensor(BIAS).tolist(), strict=True)
            ]
            losses.append(log(sum(exp(s) for s in scores)) - scores[LABELS.index(label)])
    return sum(losses) / len(losses)


def probe_alignment() -> Objective:
    objective = ProbeAlignment()
    objective.align_along(DIRECTIONS)
    return objective


def probe_alignment_by_loops(said) -> complex:
    half, gaps = said.size // 2, []
    rows = rows_of(said.example, said.size)
    for forget, companion in zip(rows[:half], rows[half:], strict=True):
        if forget and companion:
            for layer, w in enumerate(DIRECTIONS.tolist()):
                m, c = (said.rows[r[-1]][layer * WIDTH : (layer + 1) * WIDTH] for r in (forget, companion))
                gaps.append(sum((a - b) * v for a, b, v in zip(m, c, w, strict=True)) ** 2)
    return sum(gaps) / len(gaps)


ON_STATES = [
    Subject(partial(encoded_match), partial(encoded_match_by_loops, rho=0.0, margin=0.0)),
    Subject(
        partial(encoded_match, rho=0.5, margin=0.3),
        partial(encoded_match_by_loops, rho=0.5, margin=0.3),
        settings="rho: 0.5, margin: 0.3",
    ),
    Subject(
        partial(RepresentationDeviation, temperature=2.0, jitter=0.1, seed=3),
        partial(representation_deviation_by_loops, temperature=2.0, jitter=0.1, seed=3),
        sample=partial(states, layers=2),
        settings="temperature: 2.0, jitter: 0.1, seed: 3",
    ),
    Subject(gradient_reversal_probe, gradient_reversal_by_loops, sign=-STRENGTH),
    Subject(probe_alignment, probe_alignment_by_loops, sample=partial(pairs, layers=2)),
]

every = pytest.mark.parametrize("subject", ON_STATES, ids=str)


@dataclass
class Said:
    rows: list[list[complex]]
    original: list[list[float]]
    labels: list[int]
    example: list[int]
    size: int


def by_loops(subject: Subject, student: Prediction, original: Prediction) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and derivative, the latter by one complex step for each number."""
    rows, before = (p.features.detach().flatten(1).tolist() for p in (student, original))
    said = Said(rows, before, student.labels.tolist(), student.example.tolist(), student.batch_size)
    gradient = torch.zeros(len(rows), len(rows[0]), dtype=torch.float64)
    for n, row in enumerate(rows):
        for j, x in enumerate(row):
            row[j] = x + STEP * 1j
            gradient[n, j] = complex(subject.oracle(said)).imag / STEP
            row[j] = x
    value = torch.tensor(complex(subject.oracle(said)).real, dtype=torch.float64)
    return value, subject.sign * gradient.view(student.features.shape)


def loss_of(subject, student, original):
    objective = subject.make()
    return objective(student, original if objective.needs_reference else None)


def value_and_gradient(subject, student, original):
    loss = loss_of(subject, student, original)
    (gradient,) = torch.autograd.grad(loss, student.features)
    return loss.detach(), gradient


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_loops(subject, seed):
    student, original = subject.sample(seed=seed), subject.sample(seed=seed + 100)
    expected, expected_gradient = by_loops(subject, student, original)
    value, gradient = value_and_gradient(subject, student, original)
    assert value.shape == ()
    assert_close(value, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@every
def test_examples_may_be_interleaved(subject):
    student, original = subject.sample(), subject.sample(seed=1)
    order = interleaving(student)
    value, gradient = value_and_gradient(subject, student, original)
    moved, gradient_moved = value_and_gradient(subject, in_order_of(student, order), in_order_of(original, order))
    assert_close(moved, value, rtol=1e-12, atol=1e-12)
    assert_close(gradient_moved, gradient[order], rtol=1e-12, atol=1e-12)


@every
def test_examples_without_rows_change_nothing(subject):
    student, original = subject.sample((3, 2)), subject.sample((3, 2), seed=1)
    numbers = torch.tensor([1, 3])  # of four, one of each half
    value, gradient = value_and_gradient(subject, student, original)
    more = [replace(p, example=numbers[p.example], batch_size=4) for p in (student, original)]
    assert_close(value_and_gradient(subject, *more), (value, gradient), rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_without_rows_is_zero_with_a_graph(subject, dtype):
    student = subject.sample((0, 0), dtype=dtype)
    loss = loss_of(subject, student, subject.sample((0, 0), dtype=dtype))
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == 0
    assert student.features.grad.numel() == 0


@every
def test_half_precision_is_computed_in_float32(subject):
    student, original = (subject.sample(seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
    exact = [with_features(p, p.features.detach().double().requires_grad_()) for p in (student, original)]
    expected, expected_gradient = value_and_gradient(subject, *exact)
    value, gradient = value_and_gradient(subject, student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert gradient.dtype == torch.bfloat16
    assert_close(gradient.double(), expected_gradient, rtol=2.0**-7, atol=1e-5)


@every
def test_arguments_and_global_random_numbers_are_left_as_they_were(subject):
    student, original = subject.sample(), subject.sample(seed=1)
    before = [t.clone() for p in (student, original) for t in (p.features, p.labels, p.example)]
    state = torch.get_rng_state()
    value_and_gradient(subject, student, original)
    after = [t for p in (student, original) for t in (p.features, p.labels, p.example)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_predictions_without_states_are_refused(subject):
    student, original = subject.sample(), subject.sample(seed=1)
    with pytest.raises(ValueError, match=r"should get hidden states.*HiddenStateReadout\(layer="):
        loss_of(subject, replace(student, features=None), original)


@every
def test_yaml_builds_it(subject):
    made = subject.make()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    spec = f"{{class_path: lightning_unlearn.objectives.{type(made).__name__}, init_args: {{{subject.settings}}}}}"
    assert repr(parser.instantiate_classes(parser.parse_string(f"objective: {spec}")).objective) == repr(made)


def test_rows_of_no_class_have_no_gradient():
    student = states()
    _, gradient = value_and_gradient(ON_STATES[3], student, student)
    counted = torch.isin(student.labels, torch.tensor(LABELS))
    assert 0 < counted.sum() < len(counted)
    assert torch.equal(gradient.abs().sum(1) > 0, counted)
