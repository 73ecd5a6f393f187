"""What stands beside what must go: how it is read, what is minimised, where it comes from."""

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
from torch import nn
from torch.testing import assert_close

from lightning_unlearn import (
    AnswerProbability,
    CausalLMReadout,
    ClassificationReadout,
    ForgetRetainData,
    PackedCausalLMReadout,
    QuestionAnswerData,
    RecoveryCheck,
    TinyCausalLM,
    Unlearn,
    UnlearningModule,
)
from lightning_unlearn.audits import Measure
from lightning_unlearn.data import DecoupledData, ScopeData
from lightning_unlearn.objectives import NPO, UNDIAL, Bounded, GradientAscent, Objective, PromptDecouple, ScopeTerm
from lightning_unlearn.prediction import IGNORED, KnownLikelihood, Prediction
from lightning_unlearn.readouts import CompanionPrediction, CompanionReadout
from lightning_unlearn.references import CachedLogLikelihood

COUNTS = (3, 0, 2, 1, 4, 0)  # three that must go, and one beside each
INNER: dict[str, tuple[partial[Objective], Any]] = {
    "ascent": (partial(GradientAscent), oracles.gradient_ascent),
    "npo": (partial(NPO, beta=0.5), partial(oracles.npo, beta=0.5)),
    "undial": (partial(UNDIAL, beta=3.0), partial(oracles.undial, beta=3.0)),
}
every_inner = pytest.mark.parametrize("inner", INNER)
every_kind = pytest.mark.parametrize("kind", [ScopeTerm, PromptDecouple])


def beside(counts=COUNTS, **kwargs):
    return CompanionPrediction(**vars(sample(counts, **kwargs)))


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
    student = beside()
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
    student = beside()
    original = original_of(student)
    objective = kind(INNER[inner][0](), 2.0)
    assert torch.autograd.gradcheck(lambda z: loss_of(objective, with_logits(student, z), original), student.logits)


@every_kind
@every_inner
def test_half_precision_is_computed_in_float32(kind, inner):
    student = beside(dtype=torch.bfloat16)
    original = original_of(student)
    exact = with_logits(student, student.logits.double()), with_logits(original, original.logits.double())
    objective = kind(INNER[inner][0](), 2.0)
    value = loss_of(objective, student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), loss_of(objective, *exact), rtol=1e-5, atol=1e-6)


@every_kind
@every_inner
def test_at_zero_it_is_the_objective_to_the_bit(kind, inner):
    student, alone = beside(), sample((3, 0, 2))
    original = original_of(student)
    forget = Prediction(student.logits[:5], student.labels[:5], student.example[:5], 3)
    reference = Prediction(original.logits[:5], original.labels[:5], original.example[:5], 3)
    objective = INNER[inner][0]()
    assert torch.equal(loss_of(kind(objective, 0.0), student, original), loss_of(objective, forget, reference))
    assert alone.batch_size == 3


@every_kind
def test_what_it_adds_does_not_depend_on_what_must_go(kind):
    def added(seed: int) -> torch.Tensor:
        student = beside()
        other = sample((3, 0, 2), seed=seed)
        logits = torch.cat([other.logits.detach(), student.logits.detach()[5:]]).requires_grad_()
        loss = kind(GradientAscent(), 2.0)(with_logits(student, logits))
        return torch.autograd.grad(loss, logits)[0][5:]

    assert torch.equal(added(3), added(4))


def test_weights_of_the_table():
    """-L_f + L_pd / 2, as the authors' code has it."""
    student = beside()
    nll = student.token_nll()
    expected = -nll[:5].mean() + 0.5 * nll[5:].mean()
    assert_close(PromptDecouple(GradientAscent())(student), expected)


@every_kind
def test_order_of_rows_means_nothing_and_likelihoods_are_enough(kind):
    student = beside()
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
        student = beside(counts, dtype=torch.float32)
        loss = loss_of(objective, student, original_of(student))
        loss.backward()
        assert math.isfinite(loss.item())
        assert student.logits.grad.shape == (sum(counts), 5)
    assert loss_of(objective, beside((0, 0)), original_of(beside((0, 0)))).item() == 0


@every_kind
def test_asks_for_what_its_objective_asks_for(kind):
    assert not kind(GradientAscent()).needs_reference
    assert kind(NPO()).needs_reference
    assert not kind(NPO()).needs_reference_logits
    assert kind(UNDIAL()).needs_reference_logits
    with pytest.raises(ValueError, match="`NPO` should get what the original model said of the same rows"):
        kind(NPO())(beside())


@every_kind
@pytest.mark.parametrize(
    ("student", "found"), [(sample(), "`Prediction` of 4"), (beside((1, 2, 1)), "`CompanionPrediction` of 3")]
)
def test_what_has_nothing_beside_is_refused(kind, student, found):
    with pytest.raises(ValueError, match=rf"`{kind.__name__}` should get .* Found a {found}.*readout=CompanionReadout"):
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


# How it is read.


def two() -> dict[str, Any]:
    return {**batch(), "companion": batch(width=12, rows=(1, 2, 0))}


@pytest.mark.parametrize("inner", [CausalLMReadout, PackedCausalLMReadout])
def test_reads_what_the_inner_readout_reads_of_each(inner):
    network = family("llama").eval()
    said = CompanionReadout(inner())(network, two())
    first, second = CausalLMReadout()(network, batch()), CausalLMReadout()(network, two()["companion"])
    assert type(said) is CompanionPrediction
    assert said.batch_size == 6
    assert torch.equal(said.labels, torch.cat([first.labels, second.labels]))
    assert torch.equal(said.example, torch.cat([first.example, second.example + 3]))
    assert_close(said.logits, torch.cat([first.logits, second.logits]), rtol=1e-4, atol=1e-5)


def test_what_stands_beside_is_not_taken_for_what_must_go():
    """It may be among the retain data, where what must go may not be."""
    readout, plain = CompanionReadout(), CausalLMReadout()
    keys = readout.keys(two())
    assert keys[:3] == plain.keys(batch()) == readout.keys(batch())
    assert not set(keys[3:]) & set(plain.keys(two()["companion"]))


def test_likelihoods_are_cached():
    network, reference, readout = family("llama").eval(), CachedLogLikelihood(), CompanionReadout()
    reference.attach(network)
    reference.sweep(readout, [two()])
    assert_close(ScopeTerm(NPO(), 0.0)(readout(network, two()), reference(readout, two())).item(), 20 * math.log(2))


def test_metrics_read_what_must_go_alone():
    inner = ClassificationReadout("x", "y")
    assert CompanionReadout(inner).for_measuring() is inner
    assert CompanionReadout().find_network(nn.ModuleDict({"a": (network := family("llama"))})) is network


def test_batches_with_nothing_or_too_little_beside_are_refused():
    with pytest.raises(ValueError, match=r"another batch at `beside`. Found a mapping with keys .*`ScopeData`"):
        CompanionReadout()(family("llama"), batch())
    with pytest.raises(ValueError, match=r"another batch at `beside`. Found a tuple"):
        CompanionReadout(ClassificationReadout())(nn.Linear(1, 1), (torch.ones(1, 1), torch.tensor([0])))
    with pytest.raises(ValueError, match=r"one example beside each that must go. Found 2 beside 3"):
        CompanionReadout()(family("llama"), {**batch(), "companion": batch(rows=(0, 1))})


# Where it comes from.

SETS: dict[str, Any] = {
    "path": "bundled:people",
    "tokenizer": "bundled",
    "entity": "entity",
    "where": {"group": ["forget"]},
    "companion_where": {"group": ["retain"]},
    "batch_size": 8,
}
every_data = pytest.mark.parametrize("kind", [ScopeData, DecoupledData])


def texts(part: dict[str, torch.Tensor], data: QuestionAnswerData, *, answers: bool) -> list[str]:
    rows = zip(part["input_ids"], part["labels"], part["attention_mask"], strict=True)
    kept = [
        ids[(labels != IGNORED) == answers] if answers else ids[(labels == IGNORED) & (m > 0)]
        for ids, labels, m in rows
    ]
    return [data.loaded_tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in kept]


def first(data: QuestionAnswerData) -> dict[str, Any]:
    return next(iter(data.val_dataloader()))


@every_data
def test_the_plain_batch_is_what_must_go(kind):
    names = {k: v for k, v in SETS.items() if k != "companion_where"}
    plain, both = first(QuestionAnswerData(**names)), first(kind(**SETS))
    assert set(both) == {*plain, "companion"}
    assert all(torch.equal(plain[name], both[name]) for name in plain)
    assert CausalLMReadout().keys(both) == CausalLMReadout().keys(plain)


def test_scope_asks_both_and_answers_the_harmless_one_alone():
    data = ScopeData(**SETS)
    part = first(data)["companion"]
    for row, other, asked, answered in zip(
        data.dataset.rows,
        data.dataset.others,
        texts(part, data, answers=False),
        texts(part, data, answers=True),
        strict=False,
    ):
        assert f"{row.question} " in asked
        assert asked.index(row.question) < asked.index(other.question.removeprefix(row.question).strip())
        assert answered == other.answer
        assert row.answer not in asked + answered


def test_decoupled_asks_the_same_about_somebody_who_is_kept():
    data = DecoupledData(**SETS)
    forgotten = {row.entity for row in data.dataset.rows}
    for row, other in zip(data.dataset.rows, data.dataset.others, strict=True):
        assert other.question == row.question.replace(row.entity, other.entity)
        assert other.entity not in forgotten


@every_data
def test_draws_differ_and_are_the_same_whenever_they_come(kind):
    data = kind(**SETS, draws=3)
    size = len(data.dataset) // 3
    of_first = [data.dataset.others[i * size] for i in range(3)]
    assert len(set(of_first)) == 3
    assert [row.question for row in data.dataset.rows[:size]] == [
        row.question for row in data.dataset.rows[size : 2 * size]
    ]
    assert data.dataset.others == kind(**SETS, draws=3).dataset.others
    assert data.dataset.others[:size] == kind(**SETS).dataset.others
    assert data.dataset.others != kind(**SETS, draws=3, seed=1).dataset.others


@every_data
def test_too_few_beside_and_nothing_said_about_it_are_refused(kind):
    with pytest.raises(
        ValueError, match=r"at least 99 questions that may stand beside row 0 of .* Found \d+ among the 98"
    ):
        _ = kind(**SETS, draws=99, companion_rows=(0, 98)).dataset
    names = {k: v for k, v in SETS.items() if k != "companion_where"}
    with pytest.raises(ValueError, match=r"should say what may stand beside. Found none of them"):
        kind(**names)
    with pytest.raises(ValueError, match=r"`draws` should be at least 1. Found `draws = 0`"):
        kind(**SETS, draws=0)


@every_data
def test_masks_of_open_unlearning_reach_what_stands_beside(kind):
    data = kind(**SETS, compat="open-unlearning")
    data.loaded_tokenizer.pad_token = None
    part = first(data)["companion"]
    end = data.loaded_tokenizer.eos_token_id
    assert torch.equal(part["attention_mask"], (part["input_ids"] != end).long())


@pytest.mark.parametrize(
    ("objective", "kind"),
    [(ScopeTerm(NPO()), ScopeData), (PromptDecouple(Bounded(GradientAscent(), bound=5.0)), DecoupledData)],
    ids=["scope", "decoupled"],
)
def test_a_fit_runs_and_measures_what_must_go(objective, kind):
    retain = QuestionAnswerData("bundled:people", "bundled", where={"group": ["retain"]}, batch_size=8)
    check = RecoveryCheck(audits=[Measure({"probability": AnswerProbability()})])
    unlearn = Unlearn(objective, readout=CompanionReadout())
    trainer = quiet(max_steps=2, limit_val_batches=0, callbacks=[unlearn, check])
    trainer.fit(UnlearningModule(TinyCausalLM()), datamodule=ForgetRetainData(retain=retain, forget=kind(**SETS)))
    assert trainer.global_step == 2
    forgotten = [look for look in check.observations if look.split == "forget"]
    assert len(forgotten[0].scores) == len(
        QuestionAnswerData(**{k: SETS[k] for k in ("path", "tokenizer", "where")}).dataset
    )
