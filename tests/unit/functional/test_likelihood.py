"""Likelihoods of rows, and sums of them over answers."""

import math

import _oracles as oracles
import pytest
import torch
from _predictions import sample
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_unlearn.functional.likelihood import mean_or_zero, place_in_example, sum_per_example, token_nll


def test_token_nll_equals_the_loops():
    student = sample()
    expected = [
        -oracles.log_softmax(row)[label].real
        for row, label in zip(student.logits.tolist(), student.labels.tolist(), strict=True)
    ]
    assert_close(token_nll(student.logits, student.labels), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_token_nll_is_float32_at_least(dtype):
    student = sample(dtype=dtype)
    nll = token_nll(student.logits, student.labels)
    assert nll.dtype == torch.float32
    assert_close(nll.double(), token_nll(student.logits.double(), student.labels), rtol=1e-6, atol=1e-6)


def test_token_nll_of_float64_keeps_its_digits():
    assert token_nll(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0])).item() == math.log(3)


GRADIENTS = [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]


@pytest.mark.parametrize(("dtype", "atol"), GRADIENTS, ids=str)
def test_its_gradient_is_that_of_cross_entropy(dtype, atol):
    logits = (8 * torch.randn(6, 11)).to(dtype)
    logits[0, 3:5] = -math.inf  # masked words
    logits[1, 2] = 60  # certain of its label
    labels, weights = torch.tensor([0, 2, 5, -100, 10, 1]), torch.randn(6)
    found = []
    for nll in (
        token_nll,
        lambda z, y: F.cross_entropy(z.to(torch.promote_types(dtype, torch.float32)), y, reduction="none"),
    ):
        own = logits.clone().requires_grad_()
        value = nll(own, labels)
        (value * weights).sum().backward()
        found.append((value.detach(), own.grad))
    assert_close(*found, rtol=atol, atol=atol)
    assert found[0][1][3].eq(0).all()


def test_it_can_be_differentiated_twice():
    logits, labels = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.tensor([1, 0, 4])
    assert torch.autograd.gradgradcheck(lambda z: token_nll(z, labels), logits)
    assert torch.autograd.gradcheck(lambda z: token_nll(z, labels), logits)


def test_under_torch_func_it_is_torchs_own():
    logits, labels = torch.randn(3, 5, dtype=torch.float64), torch.tensor([1, 0, 4])
    for nll in (token_nll, F.cross_entropy):
        found = torch.func.grad(lambda z: nll(z, labels).mean())(logits)  # noqa: B023
        assert_close(found, (logits.softmax(1) - F.one_hot(labels, 5)) / 3)


class Made(TorchDispatchMode):
    """Counts new tensors of the size of the logits."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_new = all(value.alias_info is None for value in func._schema.returns)
        self.made += is_new and isinstance(out, torch.Tensor) and out.shape == (4, 50)
        return out


@pytest.mark.parametrize(("nll", "made"), [(token_nll, 1), (lambda z, y: F.cross_entropy(z, y, reduction="none"), 2)])
def test_backward_makes_one_tensor_of_the_logits_size(nll, made):
    logits = torch.randn(4, 50, requires_grad=True)
    value = nll(logits, torch.tensor([1, 0, 4, 49])).sum()
    with Made() as seen:
        value.backward()
    assert seen.made == made


def test_a_long_answer_in_half_precision_is_summed_in_full():
    """In bfloat16 a sum of ones gets stuck at 256."""
    logits = torch.zeros(1000, 2, dtype=torch.bfloat16)
    nll = token_nll(logits, torch.zeros(1000, dtype=torch.long))
    total = sum_per_example(nll, torch.zeros(1000, dtype=torch.long), 1)
    assert total.item() == pytest.approx(1000 * math.log(2), rel=1e-5)


def test_sum_per_example_equals_the_loop():
    values, example = torch.randn(20, dtype=torch.float64), torch.randint(6, (20,))
    expected = [
        sum(v for v, e in zip(values.tolist(), example.tolist(), strict=True) if e == number) for number in range(7)
    ]
    assert_close(sum_per_example(values, example, 7), torch.tensor(expected, dtype=torch.float64))


def test_mean_of_nothing_is_a_zero_on_the_graph():
    nothing = torch.empty(0, requires_grad=True)
    mean = mean_or_zero(nothing)
    mean.backward()
    assert mean.item() == 0
    assert nothing.grad.shape == (0,)


def test_mean_of_something_is_the_mean():
    assert mean_or_zero(torch.tensor([1.0, 2.0, 6.0])).item() == 3.0


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_place_in_example_equals_the_loop(rows):
    example = torch.randint(5, (rows,))
    seen = example.tolist()
    assert place_in_example(example).tolist() == [seen[:n].count(number) for n, number in enumerate(seen)]
