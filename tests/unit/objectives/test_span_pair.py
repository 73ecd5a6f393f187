"""Preference between spans of two traces: against products of odds, DPO and NPO, and silent outside of the spans."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import _oracles as oracles
import pytest
import torch
from _language_models import batch, family
from _predictions import interleaving, original_of, reorder, sample, with_logits
from jsonargparse import ArgumentParser
from torch.testing import assert_close

from lightning_unlearn.objectives import DPO, NPO, Objective, SpanPair
from lightning_unlearn.prediction import KnownLikelihood
from lightning_unlearn.readouts import CausalLMReadout, PairedPrediction, PairedReadout

# Forgotten spans, then those that replace them: both, no replacement, both, none, nothing to forget.
COUNTS = (1, 4, 2, 0, 0, 3, 0, 2, 0, 1)


def paired(counts=COUNTS, **kwargs):
    return PairedPrediction(**vars(sample(counts, **kwargs)))


def by_odds(student, original, beta, kappa):
    """Odds of each token multiplied up in Python floats, to the power that its span's length leaves it."""
    student, half = student.detach(), student.batch_size // 2
    examples = student.example.tolist()

    def odds(number):
        rows = [n for n, e in enumerate(examples) if e == number]
        out = 1.0
        for n in rows:
            label = student.labels[n]
            out *= float(student.logits[n].softmax(0)[label]) / float(original.logits[n].softmax(0)[label])
        return out ** (beta / len(rows) ** kappa) if rows else 1.0

    losses = [2 / beta * math.log(1 + odds(i) / odds(i + half)) for i in range(half) if {i, i + half} & set(examples)]
    return torch.tensor(sum(losses) / len(losses), dtype=torch.float64)


every_kappa = pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])


@every_kappa
@pytest.mark.parametrize("beta", [0.1, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_odds_multiplied_up(beta, kappa, seed):
    student = paired(seed=seed)
    original = original_of(student, seed=seed + 100)
    assert_close(SpanPair(beta, kappa)(student, original), by_odds(student, original, beta, kappa), rtol=1e-10, atol=0)


@every_kappa
@pytest.mark.parametrize("beta", [0.1, 3.0])
def test_value_and_gradient_equal_the_loops(beta, kappa):
    student = paired()
    original = original_of(student)
    value = SpanPair(beta, kappa)(student, original)
    (gradient,) = torch.autograd.grad(value, student.logits)
    expected = oracles.value_and_gradient(partial(oracles.span_pair, beta=beta, kappa=kappa), student, original)
    assert_close((value.detach(), gradient), expected, rtol=1e-10, atol=1e-10)


@every_kappa
def test_half_precision_is_computed_in_float32(kappa):
    student = paired(dtype=torch.bfloat16)
    original = original_of(student)
    exact = with_logits(student, student.logits.double()), with_logits(original, original.logits.double())
    value = SpanPair(kappa=kappa)(student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), SpanPair(kappa=kappa)(*exact), rtol=1e-5, atol=1e-6)


@every_kappa
def test_gradient_is_that_of_the_value(kappa):
    student = paired()
    original = original_of(student)
    assert torch.autograd.gradcheck(lambda z: SpanPair(0.5, kappa)(with_logits(student, z), original), student.logits)


@every_kappa
def test_the_original_itself_costs_log_two(kappa):
    student = paired()
    assert_close(SpanPair(0.1, kappa)(student, student.detach()).item(), 20 * math.log(2))


def test_of_sums_it_is_dpo():
    student = paired()
    original = original_of(student)
    assert torch.equal(SpanPair(0.3)(student, original), DPO(0.3)(student, original))


def test_without_replacements_it_is_npo():
    student = paired((3, 0, 2, 0, 0, 0))
    original = original_of(student)
    assert_close(SpanPair(0.7)(student, original), NPO(0.7)(student, original))


def test_the_length_of_a_span_means_nothing_to_means():
    """A span said twice over counts once."""
    student = paired((2, 3, 3, 2))
    twice = {
        name: torch.cat([getattr(student, name)] * 2) if name in ("logits", "labels", "example") else value
        for name, value in vars(student).items()
    }
    original, double = original_of(student), PairedPrediction(**twice)
    original_double = replace(double, logits=torch.cat([original.logits] * 2))
    once, again = (SpanPair(0.4, kappa)(student, original) for kappa in (1.0, 0.0))
    assert_close(SpanPair(0.4, 1.0)(double, original_double), once, rtol=1e-12, atol=0)
    assert (SpanPair(0.4, 0.0)(double, original_double) - again).abs() > 1e-2


def test_outside_of_the_spans_nothing_is_learned_and_nothing_forgotten():
    """No gradient reaches the logits of a token that is in no span, nor those of a whole trace without spans."""
    network = family("llama").double().eval()
    pair = {**batch(), "companion": batch()}
    for part in (pair, pair["companion"]):
        part["labels"][0, 3:5] = -100  # the steps between prompt and span
    network.lm_head.register_forward_hook(lambda _, __, out: seen.append(out) or out.retain_grad())
    seen: list[torch.Tensor] = []
    prediction = PairedReadout(CausalLMReadout())(network, pair)
    with torch.no_grad():
        original = replace(
            prediction.detach(), logits=prediction.logits.detach() + 0.1 * torch.randn_like(prediction.logits)
        )
    SpanPair()(prediction, original).backward()
    assert prediction.rows_per_example().tolist() == [4, 2, 0, 4, 2, 0]
    assert seen[0].shape == (12, 23)  # the head never saw another position
    assert (seen[0].grad.abs().sum(1) > 0).all()


def test_a_step_replaces_what_it_should():
    student = paired((2, 3, 3, 2))
    SpanPair(kappa=1.0)(student, student.detach()).backward()
    after = with_logits(student, student.logits.detach() - 1e-3 * student.logits.grad)
    gained = student.example_nll() - after.example_nll()
    assert (gained[:2] < 0).all()
    assert (gained[2:] > 0).all()


def test_order_of_rows_means_nothing_and_likelihoods_are_enough():
    student = paired()
    original = original_of(student)
    value = SpanPair(kappa=1.0)(student, original)
    rows = interleaving(student)
    assert_close(SpanPair(kappa=1.0)(reorder(student, rows), reorder(original, rows)), value)
    known = KnownLikelihood(original.token_nll(), original.example, original.batch_size)
    assert_close(SpanPair(kappa=1.0)(student, known), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_marked_is_zero_with_a_graph(dtype):
    student = paired((0, 0), dtype=dtype)
    loss = SpanPair(kappa=1.0)(student, student.detach())
    loss.backward()
    assert loss.item() == 0
    assert student.logits.grad.shape == (0, 5)


@pytest.mark.parametrize(
    ("student", "found"), [(sample(), "`Prediction` of 4"), (paired((1, 2, 1)), "`PairedPrediction` of 3")]
)
def test_what_is_not_paired_is_refused(student, found):
    with pytest.raises(
        ValueError, match=f"a companion to each.* Found a {found}.*readout=PairedReadout.*RewrittenTrace"
    ):
        SpanPair()(student, student.detach())


def test_reference_is_needed_and_of_the_same_rows():
    with pytest.raises(ValueError, match="should get what the original model said of the same rows"):
        SpanPair()(paired())
    with pytest.raises(ValueError, match=r"13 rows of 10 examples. Found 5 rows of 2 examples"):
        SpanPair()(paired(), paired((3, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, r"`beta` should be positive and finite. Found `beta = 0.0`"),
        ({"beta": math.nan}, r"`beta` should be positive and finite. Found `beta = nan`"),
        ({"kappa": -0.1}, r"`kappa` should be between 0 and 1. Found `kappa = -0.1`"),
        ({"kappa": math.nan}, r"`kappa` should be between 0 and 1. Found `kappa = nan`"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SpanPair(**settings)


def test_yaml_builds_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    config = parser.parse_string(
        "objective: {class_path: lightning_unlearn.objectives.SpanPair, init_args: {kappa: 1}}"
    )
    assert repr(parser.instantiate_classes(config).objective) == "SpanPair(beta=0.1, kappa=1.0)"
