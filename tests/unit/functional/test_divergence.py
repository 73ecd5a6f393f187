"""Divergences between rows of logits, a few rows at a time."""

import math
from functools import partial

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from lightning_unlearn.functional import chunks, divergence
from lightning_unlearn.functional.chunks import in_chunks
from lightning_unlearn.functional.divergence import adjusted_cross_entropy, kl_divergence, top_k_kl_divergence

LABELS = torch.tensor([0, 3, 6, 1, 1, 2, 5])
ROWWISE = {
    "kl": kl_divergence,
    "top_k": partial(top_k_kl_divergence, k=3),
    "adjusted": lambda logits, other: adjusted_cross_entropy(logits, other, LABELS, shift=-2.0),
}
rowwise = pytest.mark.parametrize("function", ROWWISE.values(), ids=ROWWISE)


@pytest.fixture
def logits():
    return torch.randn(7, 7, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def other():
    return torch.randn(7, 7, dtype=torch.float64)


def test_kl_equals_torch_distributions(logits, other):
    p, q = (torch.distributions.Categorical(logits=z) for z in (logits, other))
    assert_close(kl_divergence(logits, other), torch.distributions.kl_divergence(q, p), rtol=1e-12, atol=1e-12)


def test_top_k_kl_equals_kl_of_what_is_left(logits, other):
    kept = other.argsort(descending=True)[:, :3]
    p, q = (torch.distributions.Categorical(probs=z.softmax(-1).gather(1, kept)) for z in (logits, other))
    expected = torch.distributions.kl_divergence(q, p)
    assert_close(top_k_kl_divergence(logits, other, k=3), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, -2.0, 3.0, -torch.inf])
def test_adjusted_cross_entropy_equals_reweighted_odds(logits, other, shift):
    odds = other.exp()
    odds[torch.arange(7), LABELS] *= math.exp(shift)
    expected = -(odds / odds.sum(-1, keepdim=True) * logits.log_softmax(-1)).sum(-1)
    assert_close(adjusted_cross_entropy(logits, other, LABELS, shift=shift), expected, rtol=1e-12, atol=1e-12)


@rowwise
def test_never_negative(function):
    values = function(torch.randn(7, 7) * 10, torch.randn(7, 7) * 10)
    assert (values >= 0).all()


@rowwise
def test_scores_of_masked_tokens_do_no_harm(function, logits, other):
    """Some language models set the scores of reserved tokens to the lowest number there is."""
    lowest = torch.finfo(torch.float32).min
    masked, masked_other = (torch.cat([z.float(), torch.full((7, 2), lowest)], dim=1) for z in (logits, other))
    assert_close(function(masked, masked_other), function(logits.float(), other.float()))


@rowwise
@pytest.mark.parametrize("elements", [1, 14, 20, 48])
def test_chunks_change_nothing(function, logits, other, elements, monkeypatch):
    whole = function(logits, other)
    (gradient,) = torch.autograd.grad(whole.square().sum(), logits)
    monkeypatch.setattr(divergence, "in_chunks", partial(chunks.in_chunks, elements=elements))
    chunked = function(logits, other)
    assert torch.equal(chunked, whole)
    assert torch.equal(torch.autograd.grad(chunked.square().sum(), logits)[0], gradient)


def test_chunks_are_no_larger_than_said():
    seen = []

    def record(rows, other):
        seen.append((len(rows), len(other)))
        return rows.sum(-1)

    in_chunks(record, torch.ones(7, 4), torch.ones(7), elements=11)
    assert seen == [(2, 2), (2, 2), (2, 2), (1, 1)]


@pytest.mark.parametrize(("elements", "copies"), [(1 << 25, True), (14, False)])
def test_float32_copies_are_not_kept_for_the_backward_pass(elements, copies, monkeypatch):
    monkeypatch.setattr(divergence, "in_chunks", partial(chunks.in_chunks, elements=elements))
    saved = []
    logits, other = (torch.randn(7, 7, dtype=torch.bfloat16, requires_grad=grad) for grad in (True, False))
    with saved_tensors_hooks(lambda t: saved.append(t.dtype == torch.float32 and t.dim() == 2) or t, lambda t: t):
        kl_divergence(logits, other)
    assert any(saved) == copies


def test_no_rows_are_no_divergences():
    assert kl_divergence(torch.empty(0, 5), torch.empty(0, 5)).shape == (0,)
