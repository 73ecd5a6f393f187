"""Ascent that stops."""

import pytest
import torch
from _predictions import original_of, sample, with_logits
from torch.testing import assert_close

from lightning_unlearn.objectives import NPO, Bounded, CrossEntropy, GradientAscent, KLToReference, Objective


def test_is_relu_of_bound_minus_cross_entropy():
    student = sample()
    loss = CrossEntropy()(student)
    for bound in (0.5 * loss.item(), 2.0 * loss.item()):
        assert_close(Bounded(GradientAscent(), bound)(student), (bound - loss).clamp_min(0))


def test_gradient_is_that_of_the_objective_before_the_bound_and_exactly_zero_after():
    student = sample()
    loss = CrossEntropy()(student).item()
    (before,) = torch.autograd.grad(Bounded(GradientAscent(), 1.001 * loss)(student), student.logits)
    (after,) = torch.autograd.grad(Bounded(GradientAscent(), 0.999 * loss)(student), student.logits)
    (at,) = torch.autograd.grad(Bounded(GradientAscent(), loss)(student), student.logits)
    assert torch.equal(before, torch.autograd.grad(GradientAscent()(student), student.logits)[0])
    assert torch.count_nonzero(after) == 0
    assert torch.count_nonzero(at) == 0


def test_descent_stays_at_the_bound_where_ascent_runs_away():
    def descend(objective):
        logits = sample(known=4.0).logits.detach().clone().requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(2000):
            optimizer.zero_grad()
            objective(with_logits(sample(), logits)).backward()
            optimizer.step()
        return CrossEntropy()(with_logits(sample(), logits)).item()

    assert 3.0 < descend(Bounded(GradientAscent(), bound=3.0)) < 3.2
    assert descend(GradientAscent()) > 50


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_hides_no_failure(value):
    """A loss that is not a number stays one; the callback refuses it."""

    class Broken(Objective):
        def forward(self, student, reference=None):
            return student.logits.sum() * value

    assert not Bounded(Broken(), bound=1.0)(sample()).isfinite()


@pytest.mark.parametrize("inner", [GradientAscent(), NPO(), KLToReference()], ids=repr)
def test_needs_what_its_objective_needs(inner):
    bounded = Bounded(inner, bound=1.0)
    assert bounded.needs_reference == inner.needs_reference
    assert bounded.needs_reference_logits == inner.needs_reference_logits
    assert not Bounded.needs_reference


def test_reference_reaches_the_objective():
    student = sample()
    original = original_of(student)
    assert_close(Bounded(NPO(), bound=1.0)(student, original), NPO()(student, original) + 1)


def test_names_both_in_one_line():
    assert repr(Bounded(NPO(beta=0.5), bound=2.0)) == "Bounded(objective=NPO(beta=0.5), bound=2.0)"
