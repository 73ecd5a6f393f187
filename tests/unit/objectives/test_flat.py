"""Template answers against answers that must go: without a reference, bounded, and blind to padding."""

from __future__ import annotations

import math
from dataclasses import replace

import _oracles as oracles
import pytest
import torch
from _language_models import batch, family
from _predictions import interleaving, reorder, sample, with_logits
from torch.testing import assert_close

from lightning_unlearn.objectives import FLAT, Objective
from lightning_unlearn.readouts import CausalLMReadout, PairedPrediction, PairedReadout

# Answers that must go, then templates: both, no template, both, none, nothing to forget.
COUNTS = (1, 4, 2, 0, 0, 3, 0, 2, 0, 1)


def paired(counts=COUNTS, **kwargs):
    return PairedPrediction(**vars(sample(counts, **kwargs)))


@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_equal_the_loops(seed):
    student = paired(seed=seed)
    value = FLAT()(student)
    (gradient,) = torch.autograd.grad(value, student.logits)
    expected = oracles.value_and_gradient(oracles.flat, student, student)
    assert_close((value.detach(), gradient), expected, rtol=1e-10, atol=1e-10)
    assert not FLAT().needs_reference


def test_it_is_the_total_variation_it_says_it_is():
    """Of E[g(T)] - E[f*(g(T))] with g(T) = tanh(T) / 2, of which f* is the identity."""
    student = paired((2, 3, 3, 2))
    said = [float((-part.token_nll()).exp().mean()) for part in student.detach().split_by_example()]
    expected = sum(math.tanh(f) / 2 - math.tanh(e) / 2 for f, e in zip(said[:2], said[2:], strict=True)) / 2
    assert FLAT()(student).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sure_of", ["forget", "template"])
def test_it_is_bounded(sure_of):
    student = paired((2, 3, 3, 2))
    wanted = (student.example >= 2) == (sure_of == "template")
    logits = torch.where(wanted[:, None], 1e4, -1e4) * torch.nn.functional.one_hot(student.labels, 5)
    bound = -math.tanh(1) / 2 if sure_of == "template" else math.tanh(1) / 2
    assert FLAT()(with_logits(student, logits.double())).item() == pytest.approx(bound)


def test_a_step_says_the_template_and_leaves_alone_what_is_never_said():
    student = paired((2, 3, 3, 2))
    FLAT()(student).backward()
    after = with_logits(student, student.logits.detach() - 1e-3 * student.logits.grad)
    gained = [(-part.token_nll()).exp().mean() for part in after.split_by_example()]
    before = [(-part.token_nll()).exp().mean() for part in student.split_by_example()]
    assert [bool(a > b) for a, b in zip(gained, before, strict=True)] == [False, False, True, True]

    never = (student.logits.detach() - 60 * torch.nn.functional.one_hot(student.labels, 5)).requires_grad_()
    FLAT()(with_logits(student, never)).backward()
    assert 0 < never.grad.norm() < 1e-20


def test_padding_changes_nothing():
    network, objective = family("llama").eval(), FLAT()
    pairs = [{**batch(width=width), "companion": batch(rows=(1, 1, 1), width=width)} for width in (9, 15)]
    losses = [objective(PairedReadout(CausalLMReadout())(network, pair)) for pair in pairs]
    assert losses[0].abs() > 1e-6
    assert_close(*losses)


def test_order_of_rows_means_nothing_and_gradients_are_those_of_the_value():
    student = paired()
    assert_close(FLAT()(reorder(student, interleaving(student))), FLAT()(student), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda z: FLAT()(with_logits(student, z)), student.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_batches_without_rows(dtype):
    student = paired(dtype=dtype)
    exact = FLAT()(with_logits(student, student.logits.double()))
    value = FLAT()(student)
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    empty = paired((0, 0), dtype=dtype)
    loss = FLAT()(empty)
    loss.backward()
    assert loss.item() == 0


def test_what_has_no_templates_is_refused():
    with pytest.raises(ValueError, match=r"`FLAT` should get what must go and a companion to each.*PairedData"):
        FLAT()(sample())
    with pytest.raises(ValueError, match="even number of examples. Found a `PairedPrediction` of 9"):
        FLAT()(replace(paired(), batch_size=9))
    assert isinstance(FLAT(), Objective)
