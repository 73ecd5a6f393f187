"""What must go, and a companion to keep: what is minimised, and that a fit does it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import _oracles as oracles
import pytest
import torch
from _language_models import batch, family
from _modules import quiet
from _predictions import interleaving, original_of, reorder, sample, with_logits
from jsonargparse import ArgumentParser
from torch.testing import assert_close

from lightning_unlearn import (
    AnswerProbability,
    Encoding,
    FileRecords,
    ForgetRetainData,
    PairedData,
    QuestionAnswerData,
    RecoveryCheck,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.data import ConcatenatedQuestion, DecoupledQuestion
from lightning_unlearn.objectives import NPO, UNDIAL, Bounded, GradientAscent, Objective, PromptDecouple, ScopeTerm
from lightning_unlearn.prediction import KnownLikelihood, Prediction
from lightning_unlearn.readouts import PairedPrediction, PairedReadout
from lightning_unlearn.references import CachedLogLikelihood

COUNTS = (3, 0, 2, 1, 4, 0)  # three that must go, and a companion to each
INNER: dict[str, tuple[partial[Objective], Any]] = {
    "ascent": (partial(GradientAscent), oracles.gradient_ascent),
    "npo": (partial(NPO, beta=0.5), partial(oracles.npo, beta=0.5)),
    "undial": (partial(UNDIAL, beta=3.0), partial(oracles.undial, beta=3.0)),
}
every_inner = pytest.mark.parametrize("inner", INNER)
every_kind = pytest.mark.parametrize("kind", [ScopeTerm, PromptDecouple])


def paired(counts=COUNTS, **kwargs):
    return PairedPrediction(**vars(sample(counts, **kwargs)))


def loss_of(objective, student, original):
    return objective(student, original if objective.needs_reference else None)


def oracle(said, *, inner, factor):
    """The rows of either half by a loop, each half a batch of its own."""
    half = said.batch_size // 2
    losses = []
    for which, loss in enumerate((inner, oracles.cross_entropy)):
        rows = [n for n, e in enumerate(said.example) if (e >= half) == which]
        part = oracles.Said(
            [said.scores[n] for n in rows],
            [said.labels[n] for n in rows],
            [said.example[n] - which * half for n in rows],
            half,
            [said.original[n] for n in rows],
        )
        losses.append(loss(part))
    return losses[0] + factor * losses[1]


@every_kind
@every_inner
@pytest.mark.parametrize("factor", [0.5, 5.0])
def test_equals_the_loops(kind, inner, factor):
    make, inner_oracle = INNER[inner]
    student = paired()
    original = original_of(student)
    loss = loss_of(kind(make(), factor), student, original)
    (gradient,) = torch.autograd.grad(loss, student.logits)
    expected, expected_gradient = oracles.value_and_gradient(
        partial(oracle, inner=inner_oracle, factor=factor), student, original
    )
    assert_close(loss.detach(), expected, rtol=1e-10, atol=1e-10)
    assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@every_kind
@every_inner
def test_gradient_is_that_of_the_value(kind, inner):
    student = paired()
    original = original_of(student)
    objective = kind(INNER[inner][0](), 2.0)
    assert torch.autograd.gradcheck(lambda z: loss_of(objective, with_logits(student, z), original), student.logits)


@every_kind
@every_inner
def test_half_precision_is_computed_in_float32(kind, inner):
    student = paired(dtype=torch.bfloat16)
    original = original_of(student)
    exact = with_logits(student, student.logits.double()), with_logits(original, original.logits.double())
    objective = kind(INNER[inner][0](), 2.0)
    value = loss_of(objective, student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), loss_of(objective, *exact), rtol=1e-5, atol=1e-6)


@every_kind
@every_inner
def test_at_zero_it_is_the_objective_to_the_bit(kind, inner):
    student, alone = paired(), sample((3, 0, 2))
    original = original_of(student)
    forget = Prediction(student.logits[:5], student.labels[:5], student.example[:5], 3)
    reference = Prediction(original.logits[:5], original.labels[:5], original.example[:5], 3)
    objective = INNER[inner][0]()
    assert torch.equal(loss_of(kind(objective, 0.0), student, original), loss_of(objective, forget, reference))
    assert alone.batch_size == 3


@every_kind
def test_what_it_adds_does_not_depend_on_what_must_go(kind):
    def added(seed: int) -> torch.Tensor:
        student = paired()
        other = sample((3, 0, 2), seed=seed)
        logits = torch.cat([other.logits.detach(), student.logits.detach()[5:]]).requires_grad_()
        loss = kind(GradientAscent(), 2.0)(with_logits(student, logits))
        return torch.autograd.grad(loss, logits)[0][5:]

    assert torch.equal(added(3), added(4))


def test_weights_of_the_table():
    """-L_f + L_pd / 2, as the authors' code has it."""
    student = paired()
    nll = student.token_nll()
    expected = -nll[:5].mean() + 0.5 * nll[5:].mean()
    assert_close(PromptDecouple(GradientAscent())(student), expected)


@every_kind
def test_order_of_rows_means_nothing_and_likelihoods_are_enough(kind):
    student = paired()
    original = original_of(student)
    objective = kind(NPO())
    value = objective(student, original)
    rows = interleaving(student)
    assert_close(objective(reorder(student, rows), reorder(original, rows)), value)
    known = KnownLikelihood(original.token_nll(), original.example, original.batch_size)
    assert_close(objective(student, known), value)


@every_kind
@every_inner
def test_either_half_may_be_empty(kind, inner):
    objective = kind(INNER[inner][0](), 2.0)
    for counts in ((0, 0), (0, 2), (2, 0)):
        student = paired(counts, dtype=torch.float32)
        loss = loss_of(objective, student, original_of(student))
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.logits.grad.shape == (sum(counts), 5)
    assert loss_of(objective, paired((0, 0)), original_of(paired((0, 0)))).item() == 0


@every_kind
def test_asks_for_what_its_objective_asks_for(kind):
    assert not kind(GradientAscent()).needs_reference
    assert kind(NPO()).needs_reference
    assert not kind(NPO()).needs_reference_logits
    assert kind(UNDIAL()).needs_reference_logits
    with pytest.raises(ValueError, match="`NPO` should get what the original model said of the same rows"):
        kind(NPO())(paired())


@every_kind
@pytest.mark.parametrize(
    ("student", "found"), [(sample(), "`Prediction` of 4"), (paired((1, 2, 1)), "`PairedPrediction` of 3")]
)
def test_what_has_no_companion_is_refused(kind, student, found):
    with pytest.raises(
        ValueError, match=rf"`{kind.__name__}` should get .* Found a {found}.*readout=PairedReadout.*Question"
    ):
        kind(GradientAscent())(student)


@pytest.mark.parametrize(("kind", "name"), [(ScopeTerm, "eta"), (PromptDecouple, "weight")])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_factors_out_of_range_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"`{name}` should be finite and not negative. Found `{name} = {value}`"):
        kind(GradientAscent(), value)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (ScopeTerm, "ScopeTerm(objective=NPO(beta=0.2), eta=5.0)"),
        (PromptDecouple, "PromptDecouple(objective=NPO(beta=0.2), weight=0.5)"),
    ],
)
def test_yaml_builds_it(kind, shown):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    path = f"lightning_unlearn.objectives.{kind.__name__}"
    inner = "{class_path: lightning_unlearn.NPO, init_args: {beta: 0.2}}"
    config = parser.parse_string(f"objective: {{class_path: {path}, init_args: {{objective: {inner}}}}}")
    assert repr(parser.instantiate_classes(config).objective) == shown


# In a fit.


def people(group: str) -> FileRecords:
    return FileRecords("bundled:people", entity="entity", where={"group": [group]})


@pytest.mark.parametrize(
    ("objective", "companion"),
    [
        (ScopeTerm(NPO()), ConcatenatedQuestion(people("retain"))),
        (PromptDecouple(Bounded(GradientAscent(), bound=5.0)), DecoupledQuestion(people("retain"))),
    ],
    ids=["scope", "decoupled"],
)
def test_a_fit_runs_and_measures_what_must_go(objective, companion):
    encoding = Encoding("bundled")
    retain = QuestionAnswerData(people("retain"), encoding)
    forget = PairedData(people("forget"), companion, encoding)
    check = RecoveryCheck(audits=[Measure({"probability": AnswerProbability()})])
    unlearn = Unlearn(objective, readout=PairedReadout())
    trainer = quiet(max_steps=2, limit_val_batches=0, callbacks=[unlearn, check])
    trainer.fit(UnlearningModule(TinyCausalLM()), datamodule=ForgetRetainData(retain=retain, forget=forget))
    assert trainer.global_step == 2
    forgotten = [look for look in check.observations if look.split == "forget"]
    assert len(forgotten[0].scores) == len(people("forget").selected)


def test_likelihoods_are_cached():
    network, reference, readout = family("llama").eval(), CachedLogLikelihood(), PairedReadout()
    two = {**batch(), "companion": batch(width=12, rows=(1, 2, 0))}
    reference.attach(network)
    reference.sweep(readout, [two])
    loss = ScopeTerm(NPO(), 0.0)(readout(network, two), reference(readout, two))
    assert_close(loss.item(), 20 * math.log(2), rtol=1e-4, atol=0)
