"""What every objective promises. A new one joins ``SUBJECTS``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import _oracles as oracles
import pytest
import torch
import yaml
from _predictions import interleaving, original_of, renumber, reorder, sample, shuffle, with_logits
from jsonargparse import ArgumentError, ArgumentParser
from torch.testing import assert_close

from lightning_unlearn import objectives
from lightning_unlearn.objectives import (
    CEU,
    NPO,
    UNDIAL,
    WGA,
    Bounded,
    CrossEntropy,
    FixedRandomLabel,
    GradientAscent,
    ImportanceScheduled,
    JensUn,
    JSDToReference,
    KLToReference,
    LogitMarginFlattening,
    Objective,
    RandomLabel,
    SatImp,
    SimNPO,
    TopKKL,
    UniformLabel,
)
from lightning_unlearn.prediction import KnownLikelihood


@dataclass
class Subject:
    """An objective under test.

    ``moves`` is what one step from an original model that knows the labels does to their likelihood: +1, -1, or 0 for
    nothing. ``own_derivative`` is whether the gradient is that of the value, ``order_free`` whether rows of an answer may
    swap places, ``draws`` whether rows are treated by chance.
    """

    make: partial[Objective]
    oracle: oracles.Oracle
    moves: int = -1
    own_derivative: bool = True
    order_free: bool = True
    draws: bool = False

    def __str__(self) -> str:
        return repr(self.make())


SUBJECTS = [
    Subject(partial(CrossEntropy), oracles.cross_entropy, moves=+1),
    Subject(partial(GradientAscent), oracles.gradient_ascent),
    Subject(
        partial(Bounded, objective=GradientAscent(), bound=9.0),
        partial(oracles.bounded, objective=oracles.gradient_ascent, bound=9.0),
    ),
    Subject(
        partial(Bounded, objective=GradientAscent(), bound=0.01),
        partial(oracles.bounded, objective=oracles.gradient_ascent, bound=0.01),
        moves=0,
    ),
    Subject(
        partial(Bounded, objective=NPO(), bound=1.0),
        partial(oracles.bounded, objective=partial(oracles.npo, beta=0.1), bound=1.0),
    ),
    Subject(partial(NPO, beta=0.1), partial(oracles.npo, beta=0.1)),
    Subject(partial(NPO, beta=3.0), partial(oracles.npo, beta=3.0)),
    Subject(partial(SimNPO, beta=2.5, gamma=0.0), partial(oracles.sim_npo, beta=2.5, gamma=0.0)),
    Subject(partial(SimNPO, beta=0.5, gamma=1.5), partial(oracles.sim_npo, beta=0.5, gamma=1.5)),
    Subject(partial(WGA, beta=1.0), partial(oracles.weighted_ascent, beta1=1.0, beta2=0.0), own_derivative=False),
    Subject(
        partial(SatImp, beta1=5.0, beta2=1.0),
        partial(oracles.weighted_ascent, beta1=5.0, beta2=1.0),
        own_derivative=False,
    ),
    Subject(partial(CEU), partial(oracles.ceu, skip=0), own_derivative=False),
    Subject(partial(CEU, skip_first_tokens=1), partial(oracles.ceu, skip=1), own_derivative=False, order_free=False),
    Subject(partial(UNDIAL, beta=10.0), partial(oracles.undial, beta=10.0)),
    Subject(partial(LogitMarginFlattening), oracles.logit_margin_flattening),
    Subject(partial(RandomLabel, seed=5), partial(oracles.random_label, seed=5), order_free=False, draws=True),
    Subject(partial(FixedRandomLabel, seed=5), partial(oracles.fixed_random_label, seed=5), order_free=False),
    Subject(partial(UniformLabel), oracles.uniform_label),
    Subject(
        partial(ImportanceScheduled, objectives=[UniformLabel(), NPO(beta=0.1)], thresholds=[0.7]),
        partial(
            oracles.importance_scheduled,
            objectives=[oracles.uniform_label, partial(oracles.npo, beta=0.1)],
            thresholds=[0.7],
        ),
    ),
    Subject(partial(JensUn, target=[1]), partial(oracles.jens_un, target=[1])),
    Subject(partial(JensUn, target=[4, 1, 3]), partial(oracles.jens_un, target=[4, 1, 3]), order_free=False),
    Subject(partial(JSDToReference), oracles.jsd_to_reference, moves=0),
    Subject(partial(KLToReference), partial(oracles.kl_to_reference, k=None), moves=0),
    Subject(partial(TopKKL, k=3), partial(oracles.kl_to_reference, k=3), moves=0),
]

# More than the logits of one answer: `test_dpo.py`, `test_flat.py`, `test_span_pair.py`, `test_keep_companion.py`; hidden
# states: `test_rmu.py`, `test_states.py`, `test_on_hidden_states.py`.
READ_OTHERWISE = {
    objectives.EncodedMatch,
    objectives.RepresentationDeviation,
    objectives.GradientReversalProbe,
    objectives.ProbeAlignment,
    objectives.PrototypePull,
    objectives.PrototypePush,
    objectives.DPO,
    objectives.RMU,
    objectives.ActivationMatch,
    objectives.SpanPair,
    objectives.ScopeTerm,
    objectives.PromptDecouple,
    objectives.FLAT,
    objectives.ActivationDrift,
    objectives.MLPConfuse,
    objectives.MCU,
    objectives.RepresentationRerouting,
}

every = pytest.mark.parametrize("subject", SUBJECTS, ids=str)
every_with_reference = pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.make().needs_reference], ids=str)
every_with_logits = pytest.mark.parametrize(
    "subject", [s for s in SUBJECTS if s.make().needs_reference_logits], ids=str
)


def loss_of(subject, student, original):
    objective = subject.make()  # anew, so that draws start where they started
    return objective(student, original if objective.needs_reference else None)


def value_and_gradient(subject, student, original):
    loss = loss_of(subject, student, original)
    (gradient,) = torch.autograd.grad(loss, student.logits)
    return loss.detach(), gradient


def exactly(actual, expected, *, atol=1e-12):
    assert_close(actual, expected, rtol=1e-12, atol=atol)


def test_no_objective_is_left_out():
    public = {getattr(objectives, name) for name in objectives.__all__} - {Objective, objectives.PrototypeObjective}
    assert {s.make.func for s in SUBJECTS} == public - READ_OTHERWISE


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_loops(subject, seed):
    student = sample(seed=seed)
    original = original_of(student, seed=seed + 100)
    expected, expected_gradient = oracles.value_and_gradient(subject.oracle, student, original)
    value, gradient = value_and_gradient(subject, student, original)
    assert value.shape == ()
    assert_close(value, expected, rtol=1e-10, atol=1e-10)
    assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.own_derivative], ids=str)
def test_gradient_is_that_of_the_value(subject):
    student = sample()
    original = original_of(student)
    assert torch.autograd.gradcheck(lambda z: loss_of(subject, with_logits(student, z), original), student.logits)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if not s.draws], ids=str)
def test_examples_may_be_interleaved(subject):
    assert_order_means_nothing(subject, interleaving(sample()))


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.order_free], ids=str)
def test_order_of_rows_means_nothing(subject):
    assert_order_means_nothing(subject, shuffle(sample()))


def assert_order_means_nothing(subject, rows):
    student = sample()
    original = original_of(student)
    value, gradient = value_and_gradient(subject, student, original)
    moved, gradient_moved = value_and_gradient(subject, reordered_leaf(student, rows), reorder(original, rows))
    exactly(moved, value)
    exactly(gradient_moved, gradient[rows])


def reordered_leaf(student, rows):
    moved = reorder(student, rows)
    return with_logits(moved, moved.logits.detach().requires_grad_())


@every
def test_order_of_examples_means_nothing(subject):
    student = sample()
    original, numbers = original_of(student), torch.tensor([2, 0, 3, 1])
    value, gradient = value_and_gradient(subject, student, original)
    moved, gradient_moved = value_and_gradient(subject, renumber(student, numbers, 4), renumber(original, numbers, 4))
    exactly(moved, value)
    exactly(gradient_moved, gradient)


@every
def test_example_without_rows_changes_nothing(subject):
    student = sample((3, 2, 4))
    original, numbers = original_of(student), torch.tensor([1, 2, 4])
    value, gradient = value_and_gradient(subject, student, original)
    more, gradient_more = value_and_gradient(subject, renumber(student, numbers, 6), renumber(original, numbers, 6))
    exactly(more, value)
    exactly(gradient_more, gradient)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_without_rows_is_zero_with_a_graph(subject, dtype, batch_size):
    student = sample((0,) * batch_size, dtype=dtype)
    loss = loss_of(subject, student, original_of(student))
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == 0
    assert student.logits.grad.shape == (0, 5)


@every
def test_one_step_from_the_original_moves_the_likelihood_as_promised(subject):
    student = sample(known=8.0)
    assert (student.logits.argmax(-1) == student.labels).all()
    _, gradient = value_and_gradient(subject, student, student.detach())
    after = with_logits(student, student.logits.detach() - 1e-2 * gradient)
    gained = student.token_nll().mean() - after.token_nll().mean()
    if subject.moves:
        assert gained * subject.moves > 1e-8
    else:
        assert gained.abs() < 1e-15


@every
@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=["bf16", "fp16"])
def test_half_precision_logits_are_computed_in_float32(subject, dtype, digits):
    student = sample(dtype=dtype)
    original = original_of(student)
    exact = with_logits(student, student.logits.detach().double().requires_grad_())
    expected, expected_gradient = value_and_gradient(subject, exact, with_logits(original, original.logits.double()))
    value, gradient = value_and_gradient(subject, student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert gradient.dtype == dtype
    assert_close(gradient.double(), expected_gradient, rtol=2.0 ** (1 - digits), atol=1e-6)


@every
def test_arguments_are_left_as_they_were(subject):
    student = sample()
    original = original_of(student)
    before = [t.clone() for p in (student, original) for t in (p.logits, p.labels, p.example)]
    value_and_gradient(subject, student, original)
    after = [t for p in (student, original) for t in (p.logits, p.labels, p.example)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every
def test_global_random_numbers_are_left_alone(subject):
    state = torch.get_rng_state()
    value_and_gradient(subject, sample(), original_of(sample()))
    assert torch.equal(torch.get_rng_state(), state)


@every_with_reference
def test_missing_reference_is_refused(subject):
    with pytest.raises(ValueError, match="should get what the original model said of the same rows"):
        subject.make()(sample())


@every_with_reference
def test_reference_of_other_rows_is_refused(subject):
    with pytest.raises(ValueError, match=r"9 rows of 4 examples. Found 5 rows of 2 examples"):
        subject.make()(sample(), sample((3, 2)))


@every_with_logits
def test_likelihoods_alone_are_refused(subject):
    student = sample()
    known = KnownLikelihood(student.token_nll().detach(), student.example, student.batch_size)
    with pytest.raises(ValueError, match=r"whole distribution, a `Prediction`. Found `KnownLikelihood`"):
        subject.make()(student, known)


@every_with_logits
def test_other_vocabulary_is_refused(subject):
    with pytest.raises(ValueError, match=r"logits of shape \(9, 5\). Found \(9, 6\)"):
        subject.make()(sample(), sample(classes=6))


def config_of(value):
    """What YAML would say."""
    if isinstance(value, Objective):
        return config_of(partial(type(value)))
    if isinstance(value, list):
        return [config_of(part) for part in value]
    if not isinstance(value, partial):
        return value
    arguments = {name: config_of(argument) for name, argument in value.keywords.items()}
    return {"class_path": f"lightning_unlearn.objectives.{value.func.__name__}", "init_args": arguments}


def build(config):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    return parser.instantiate_classes(parser.parse_string(yaml.safe_dump({"objective": config}))).objective


@every
def test_yaml_builds_it(subject):
    assert repr(build(config_of(subject.make))) == repr(subject.make())


@every
def test_yaml_with_a_mistyped_argument_is_refused(subject):
    config = config_of(subject.make)
    config["init_args"]["betta"] = 0.1
    with pytest.raises(ArgumentError, match="betta"):
        build(config)


@every
def test_every_argument_is_a_setting_shown(subject):
    arguments: Callable[..., object] = subject.make.func.__init__
    names = [n for n in inspect.signature(arguments).parameters if n not in ("self", "args", "kwargs")]
    assert all(f"{name}=" in str(subject) for name in names)
