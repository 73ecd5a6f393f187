"""A refusal by Jensen-Shannon divergence: exact where probabilities are tiny, bounded, slow at the start."""

from __future__ import annotations

import math

import pytest
import torch
from _language_models import batch, family
from _predictions import original_of, sample, with_logits
from torch.testing import assert_close

from lightning_unlearn.functional.divergence import js_divergence, js_divergence_from_label
from lightning_unlearn.models import load_tokenizer
from lightning_unlearn.objectives import CrossEntropy, JensUn, JSDToReference, KLToReference
from lightning_unlearn.prediction import Prediction
from lightning_unlearn.readouts import CausalLMReadout

ONE = torch.tensor([0])


def by_definition(logits, least=0.0):
    """With the mixture over all tokens, and probabilities held above ``least``."""
    p = logits.softmax(-1).clamp_min(least)
    certain = torch.zeros_like(p).index_fill_(1, ONE, 1.0)
    mixture = (p + certain) / 2
    rows = (torch.xlogy(q, q) - torch.xlogy(q, mixture) for q in (p, certain))
    return sum(rows).sum(-1) / 2


def two_tokens(p, dtype=torch.float64):
    """A prediction of two tokens, the first of probability ``p``."""
    return torch.tensor([[math.log(p) - math.log1p(-p), 0.0]], dtype=dtype, requires_grad=True)


def gradient(loss, logits):
    (found,) = torch.autograd.grad(loss(logits).sum(), logits)
    return found


def test_the_closed_form_is_the_definition():
    logits = 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    labels = torch.zeros(50, dtype=torch.int64)
    value = js_divergence_from_label(logits, labels)
    assert_close(value, by_definition(logits), rtol=0, atol=2e-15)
    exact = gradient(lambda z: js_divergence_from_label(z, labels), logits)
    assert_close(exact, gradient(by_definition, logits), rtol=0, atol=1e-15)
    assert ((value >= 0) & (value <= math.log(2))).all()


@pytest.mark.parametrize("exponent", [-5, -40, -80])
def test_its_slope_is_right_for_tiny_probabilities_in_float32(exponent):
    logits = torch.tensor([[float(exponent), 0.0]], requires_grad=True)
    p = math.exp(exponent) / (1 + math.exp(exponent))
    slope = 0.5 * p * math.log(p / (1 + p))
    expected = torch.tensor([[slope * (1 - p), -slope * (1 - p)]])
    assert_close(gradient(lambda z: js_divergence_from_label(z, ONE), logits), expected, rtol=2e-5, atol=0)


def test_a_bound_from_below_would_make_it_wrong():
    logits = two_tokens(1e-10)
    exact = float(gradient(lambda z: js_divergence_from_label(z, ONE), logits).norm())
    bounded = float(gradient(lambda z: by_definition(z, least=1e-9), logits).norm())
    assert exact == pytest.approx(math.sqrt(2) * 0.5 * 1e-10 * 10 * math.log(10), rel=1e-6)
    assert bounded < exact / 10


@pytest.mark.parametrize(("p", "length"), [(0.1, 0.153), (1e-2, 0.032), (1e-4, 6.5e-4), (1e-6, 1e-5)])
def test_it_starts_slowly_where_cross_entropy_does_not(p, length):
    logits = two_tokens(p)
    prediction = Prediction(logits, 1 - ONE, ONE, batch_size=1)
    (slow,) = torch.autograd.grad(JensUn(target=[0])(prediction), logits)
    (quick,) = torch.autograd.grad(CrossEntropy()(Prediction(logits, ONE, ONE, batch_size=1)), logits)
    assert slow.norm().item() == pytest.approx(length, rel=0.03)
    assert quick.norm().item() == pytest.approx(math.sqrt(2) * (1 - p), rel=1e-9)


@pytest.mark.parametrize("score", [-math.inf, -1e4, 0.0, 1e4])
def test_it_is_finite_for_any_score(score):
    logits = torch.tensor([[score, 0.0, 0.0]], requires_grad=True)
    loss = JensUn(target=[0])(Prediction(logits, ONE, ONE, batch_size=1))
    loss.backward()
    assert 0 <= loss <= math.log(2) + 1e-6
    assert logits.grad.isfinite().all()


def test_the_refusal_goes_round_in_each_answer():
    prediction = sample((3, 0, 5))
    refusal = torch.tensor([4, 1, 4, 4, 1, 4, 1, 4])
    expected = js_divergence_from_label(prediction.logits, refusal).mean()
    assert torch.equal(JensUn(target=[4, 1])(prediction), expected)


def test_training_on_it_ends_in_the_refusal():
    logits = sample((3, 4)).logits.detach().requires_grad_()
    optimizer, objective = torch.optim.Adam([logits], lr=0.1), JensUn(target=[2, 0])
    for _ in range(300):
        optimizer.zero_grad()
        objective(with_logits(sample((3, 4)), logits)).backward()
        optimizer.step()
    assert logits.argmax(-1).tolist() == [2, 0, 2, 2, 0, 2, 0]
    assert objective(with_logits(sample((3, 4)), logits)) < 1e-3


def test_a_text_is_said_in_the_tokens_of_its_tokenizer():
    objective = JensUn("No idea", tokenizer="bundled")
    assert load_tokenizer("bundled").decode(objective.tokens) == "No idea"
    assert not objective.state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"`tokenizer` should be given with a text. Found `target = 'No idea'` and `tokenizer = None`"),
        ({"target": []}, r"`target` should have at least one token. Found `target = \[\]`"),
        ({"target": "", "tokenizer": "bundled"}, r"should have at least one token. Found `target = ''`"),
        ({"target": [1.5]}, "`target` should be a whole number: token ids. Found"),
        ({"target": [-1]}, "`target` should be at least 0: token ids. Found"),
    ],
)
def test_what_is_no_refusal_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        JensUn(**arguments)


def test_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(
        ValueError, match=r"`target` should be below 5, the number of logits. Found 7. Use the tokenizer"
    ):
        JensUn(target=[2, 7])(sample())


def test_padding_changes_nothing():
    network, objective = family("llama").eval(), JensUn(target=[3, 4])
    losses = [objective(CausalLMReadout()(network, batch(width=width))) for width in (9, 15)]
    assert_close(*losses)


@pytest.mark.parametrize("vocabulary", [2, 50, 32000])
def test_keeping_to_the_original_has_no_gradient_at_the_start_not_even_by_rounding(vocabulary):
    logits = 3 * torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    prediction = Prediction(logits, torch.zeros(4).long(), torch.arange(4), batch_size=4)
    loss = JSDToReference()(prediction, prediction.detach())
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_near_the_original_it_is_a_quarter_of_the_divergence_and_far_from_it_log_two():
    student = sample()
    near = with_logits(student, student.logits.detach() + 1e-4 * original_of(student).logits)
    assert_close(4 * JSDToReference()(student, near), KLToReference()(student, near), rtol=1e-3, atol=0)
    far = torch.tensor([[0.0, 500.0]]), torch.tensor([[500.0, 0.0]])
    assert js_divergence(*far).item() == pytest.approx(math.log(2))
    assert_close(js_divergence(*far), js_divergence(*far[::-1]))
