"""Likelihoods of rows, and sums of them over answers."""

import math

import _oracles as oracles
import pytest
import torch
from _predictions import sample
from torch.testing import assert_close

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
