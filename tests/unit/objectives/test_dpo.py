"""Two answers to each question: how they are read, what is minimised, where they come from."""

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
from torch import nn
from torch.testing import assert_close

from lightning_unlearn.objectives import DPO, NPO, Objective
from lightning_unlearn.prediction import KnownLikelihood, Prediction
from lightning_unlearn.readouts import (
    CausalLMReadout,
    ClassificationReadout,
    CompanionReadout,
    PackedCausalLMReadout,
    PairedPrediction,
    PairedReadout,
    halves_of_examples,
    halves_of_rows,
)
from lightning_unlearn.references import CachedLogLikelihood

# Answers that must go, then those to prefer: both, no preferred, both, none, no dispreferred.
COUNTS = (1, 4, 2, 0, 0, 3, 0, 2, 0, 1)


def paired(counts=COUNTS, **kwargs):
    return PairedPrediction(**vars(sample(counts, **kwargs)))


def by_products(student, original, beta):
    """Bradley and Terry's odds, multiplied up token by token in Python floats."""
    student, half = student.detach(), student.batch_size // 2

    def ratio(number):
        out = 1.0
        for n, example in enumerate(student.example.tolist()):
            if example == number:
                label = student.labels[n]
                out *= float(student.logits[n].softmax(0)[label]) / float(original.logits[n].softmax(0)[label])
        return out

    present = set(student.example.tolist())
    losses = [
        -2 / beta * math.log(ratio(i + half) ** beta / (ratio(i) ** beta + ratio(i + half) ** beta))
        for i in range(half)
        if {i, i + half} & present
    ]
    return torch.tensor(sum(losses) / len(losses), dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_odds_multiplied_up(beta, seed):
    student = paired(seed=seed)
    original = original_of(student, seed=seed + 100)
    assert_close(DPO(beta)(student, original), by_products(student, original, beta), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta", [0.1, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_equal_the_loops(beta, seed):
    student = paired(seed=seed)
    original = original_of(student, seed=seed + 100)
    value = DPO(beta)(student, original)
    (gradient,) = torch.autograd.grad(value, student.logits)
    expected = oracles.value_and_gradient(partial(oracles.span_pair, beta=beta, kappa=0), student, original)
    assert_close((value.detach(), gradient), expected, rtol=1e-10, atol=1e-10)


def test_gradient_is_that_of_the_value():
    student = paired()
    original = original_of(student)
    assert torch.autograd.gradcheck(lambda z: DPO(0.5)(with_logits(student, z), original), student.logits)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_original_itself_costs_log_two(beta):
    student = paired()
    assert_close(DPO(beta)(student, student.detach()).item(), 2 / beta * math.log(2))


def test_without_preferred_answers_it_is_npo():
    student = paired((3, 0, 2, 0, 0, 0))
    original = original_of(student)
    assert_close(DPO(0.7)(student, original), NPO(0.7)(student, original))


def test_without_dispreferred_answers_it_is_npo_of_the_inverse_ratio():
    student = paired((0, 0, 0, 3, 0, 2))
    original = original_of(student)
    assert_close(DPO(0.7)(student, original), NPO(0.7)(original, student))


def test_a_step_prefers_what_it_should():
    student = paired((2, 3, 3, 2))
    DPO()(student, student.detach()).backward()
    after = with_logits(student, student.logits.detach() - 1e-3 * student.logits.grad)
    gained = student.example_nll() - after.example_nll()
    assert (gained[:2] < 0).all()
    assert (gained[2:] > 0).all()


def test_swapping_the_answers_turns_the_step_round():
    student = paired((2, 3, 3, 2))
    DPO()(student, student.detach()).backward()
    swapped = replace(student, example=(student.example + 2) % 4)
    (gradient,) = torch.autograd.grad(DPO()(swapped, swapped.detach()), student.logits)
    assert_close(gradient, -student.logits.grad)


def test_order_of_rows_and_of_questions_means_nothing():
    student = paired()
    original = original_of(student)
    value = DPO()(student, original)
    rows = interleaving(student)
    assert_close(DPO()(reorder(student, rows), reorder(original, rows)), value)
    numbers = torch.tensor([3, 1, 4, 0, 2])
    numbers = torch.cat([numbers, numbers + 5])
    moved, moved_original = (replace(p, example=numbers[p.example]) for p in (student, original))
    assert_close(DPO()(moved, moved_original), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_supervised_is_zero_with_a_graph(dtype):
    student = paired((0, 0), dtype=dtype)
    loss = DPO()(student, student.detach())
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == 0
    assert student.logits.grad.shape == (0, 5)


def test_half_precision_is_computed_in_float32():
    student = paired(dtype=torch.bfloat16)
    original = original_of(student)
    exact = DPO()(with_logits(student, student.logits.double()), with_logits(original, original.logits.double()))
    value = DPO()(student, original)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)


def test_likelihoods_are_enough():
    student = paired()
    original = original_of(student)
    known = KnownLikelihood(original.token_nll(), original.example, original.batch_size)
    assert_close(DPO()(student, known), DPO()(student, original))


@pytest.mark.parametrize(
    ("student", "found"), [(sample(), "`Prediction` of 4"), (paired((1, 2, 1)), "`PairedPrediction` of 3")]
)
def test_what_is_not_paired_is_refused(student, found):
    with pytest.raises(ValueError, match=f"a companion to each.* Found a {found}.*readout=PairedReadout.*Refusals"):
        DPO()(student, student.detach())


def test_reference_is_needed_and_of_the_same_rows():
    with pytest.raises(ValueError, match="should get what the original model said of the same rows"):
        DPO()(paired())
    with pytest.raises(ValueError, match=r"13 rows of 10 examples. Found 5 rows of 2 examples"):
        DPO()(paired(), paired((3, 2)))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_out_of_range_is_refused(beta):
    with pytest.raises(ValueError, match=f"`beta` should be positive and finite. Found `beta = {beta}`"):
        DPO(beta)


def test_yaml_builds_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--objective", type=Objective)
    config = parser.parse_string("objective: {class_path: lightning_unlearn.objectives.DPO, init_args: {beta: 0.3}}")
    assert repr(parser.instantiate_classes(config).objective) == "DPO(beta=0.3)"


READOUTS = [CausalLMReadout(), PackedCausalLMReadout()]
every_readout = pytest.mark.parametrize("inner", READOUTS, ids=lambda r: type(r).__name__)


def two(**kwargs):
    return {**batch(**kwargs), "entity": ["a"] * 3, "companion": batch(width=12, rows=(1, 2, 0), **kwargs)}


@every_readout
@pytest.mark.parametrize("masked", [True, False])
def test_reads_what_the_inner_readout_reads_of_each(inner, masked):
    """With a mask the two go through the network as one batch, without one by one."""
    network, pair = family("llama").eval(), two(masked=masked)
    prediction = PairedReadout(inner)(network, pair)
    first, second = (CausalLMReadout()(network, part) for part in (pair, pair["companion"]))
    assert type(prediction) is PairedPrediction
    assert prediction.batch_size == 6
    assert torch.equal(prediction.labels, torch.cat([first.labels, second.labels]))
    assert torch.equal(prediction.example, torch.cat([first.example, second.example + 3]))
    assert_close(prediction.logits, torch.cat([first.logits, second.logits]), rtol=1e-4, atol=1e-5)
    assert prediction.supervised().tolist() == [True, True, False, True, False, True]


def test_language_models_are_called_once():
    network = family("llama").eval()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    PairedReadout(CausalLMReadout())(network, two())
    assert len(calls) == 1


def test_keeps_features_of_both():
    prediction = PairedReadout(CausalLMReadout(keep_features=True))(family("llama").eval(), two(masked=False))
    assert prediction.features.shape == (len(prediction.labels), 16)


def images(label, n=3):
    return {"x": torch.arange(4.0 * n).reshape(n, 4), "y": torch.full((n,), label)}


IMAGES = ClassificationReadout("x", "y")


def test_any_readout_will_do():
    prediction = PairedReadout(IMAGES)(nn.Linear(4, 2), {**images(0), "companion": images(1)})
    assert prediction.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert prediction.example.tolist() == [0, 1, 2, 3, 4, 5]
    assert prediction.features is None


def test_halves_are_told_apart_by_name():
    student = paired()
    known = KnownLikelihood(student.token_nll(), student.example, student.batch_size)
    per_example = halves_of_examples(student.example_nll())
    for likelihood in (student, known):
        halves = halves_of_rows(likelihood)
        assert (halves.forget.batch_size, halves.companion.batch_size) == (5, 5)
        assert torch.equal(halves.forget.example_nll(), per_example.forget)
        assert torch.equal(halves.companion.example_nll(), per_example.companion)
    assert halves_of_rows(student).companion.rows_per_example().tolist() == list(COUNTS[5:])


def test_companions_alone():
    network, pair = family("llama").eval(), two()
    prediction = CompanionReadout(CausalLMReadout())(network, pair)
    assert type(prediction) is Prediction
    assert torch.equal(prediction.logits, CausalLMReadout()(network, pair["companion"]).logits)
    assert CompanionReadout().keys(pair) == PairedReadout().keys(pair)[3:]


def test_companions_are_not_taken_for_what_must_go():
    """They may be among the retain data, where what must go may not be."""
    readout, plain, pair = PairedReadout(), CausalLMReadout(), two()
    keys = readout.keys(pair)
    assert keys[:3] == plain.keys(batch()) == readout.keys(batch())
    assert not set(keys[3:]) & set(plain.keys(pair["companion"]))


def test_likelihoods_are_cached_whatever_the_batches():
    network = family("llama").eval()
    reference, readout, pair = CachedLogLikelihood(), PairedReadout(), two()
    reference.attach(network)
    reference.sweep(readout, [pair])
    shorter = {name: value[:2] for name, value in pair.items() if name != "companion"}
    parts = {**shorter, "companion": {name: value[:2] for name, value in pair["companion"].items()}}
    known, prediction = reference(readout, parts), readout(network, parts)
    assert_close(known.example_nll(), prediction.example_nll(), rtol=1e-4, atol=1e-5)
    assert_close(DPO()(prediction, known).item(), 20 * math.log(2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("readout", [PairedReadout(), CompanionReadout()], ids=lambda r: type(r).__name__)
def test_plain_batches_are_recognised_but_not_read(readout):
    """Overlap with retain data is still noticed; a probe read by mistake is not silently half refusals."""
    assert readout.keys(batch()) == CausalLMReadout().keys(batch())
    assert set(PairedReadout().keys(two())) >= set(readout.keys(batch()))
    with pytest.raises(
        ValueError, match=r"with another batch at `companion`. Found a mapping with keys .*`PairedData`"
    ):
        readout(family("llama"), batch())
    with pytest.raises(ValueError, match=r"Found a tuple.*want a plain readout"):
        readout(nn.Linear(4, 2), tuple(images(0).values()))


@pytest.mark.parametrize(
    ("inner", "pair"),
    [
        (CausalLMReadout(), {**batch(), "companion": batch(rows=(0, 1))}),
        (IMAGES, {**images(1, 3), "companion": images(0, 2)}),
    ],
    ids=["tokens", "images"],
)
def test_uneven_pairs_are_refused(inner, pair):
    network = nn.Linear(4, 2) if isinstance(inner, ClassificationReadout) else family("llama")
    with pytest.raises(ValueError, match="one example to each that must go. Found 2 companions of 3 examples"):
        PairedReadout(inner)(network, pair)


def test_finds_the_network_the_inner_readout_finds():
    network = family("llama")
    module = nn.ModuleDict({"inside": network})
    assert PairedReadout().find_network(module) is network
    assert CompanionReadout().find_network(module) is network


@pytest.mark.parametrize("kind", [PairedReadout, CompanionReadout])
def test_what_is_known_is_measured_on_plain_batches(kind):
    inner = CausalLMReadout()
    assert kind(inner).for_measuring() is inner
