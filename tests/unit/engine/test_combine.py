"""The weighted sum of rows ends up in `.grad`, and a parameter nobody used keeps none."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_unlearn.engine import combine_


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_sum_of_what_is_there(present: tuple[bool, ...]) -> None:
    p, weights = nn.Parameter(torch.zeros(2, 3)), [0.5, -2.0, 3.0]
    tensors = [torch.randn(2, 3) if there else None for there in present]
    copies = [None if t is None else t.clone() for t in tensors]
    combine_([p], [[t] for t in tensors], weights)
    if not any(present):
        assert p.grad is None
    else:
        assert_close(p.grad, sum(w * t for w, t in zip(weights, copies, strict=True) if t is not None))
        assert not p.grad.requires_grad


def test_gradient_in_flight_is_added_to_and_stays_the_same_tensor() -> None:
    p = nn.Parameter(torch.zeros(2))
    p.grad = grad = torch.tensor([1.0, 2.0])
    combine_([p], [[torch.ones(2)], [p.grad]], [3.0, 0.5])
    assert p.grad is grad
    assert grad.tolist() == [3.5, 4.0]


def test_last_row_with_weight_one_is_kept_to_the_bit() -> None:
    p = nn.Parameter(torch.zeros(100))
    p.grad = torch.randn(100)
    before = p.grad.clone()
    combine_([p], [[None], [p.grad]], [5.0, 1.0])
    assert torch.equal(p.grad, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_row_that_is_too_short_to_have_a_direction_adds_nothing(dtype: torch.dtype) -> None:
    p, beyond = nn.Parameter(torch.zeros(2, dtype=dtype)), torch.finfo(dtype).max * 1.5
    for weights, expected in ([beyond, 1.0], 3.0), ([1.0, -beyond], 2.0):
        combine_([p], [[torch.full_like(p, 2.0)], [torch.full_like(p, 3.0)]], weights)
        assert p.grad.tolist() == [expected] * 2
    combine_([p], [[torch.ones_like(p)], [torch.ones_like(p)]], [math.nan, 1.0])
    assert p.grad.isnan().all()


def test_each_parameter_is_combined_by_itself() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    combine_([a, b], [[torch.ones(1), None], [None, torch.ones(1)]], [2.0, 3.0])
    assert (a.grad.item(), b.grad.item()) == (2, 3)
    with pytest.raises(ValueError, match="zip"):
        combine_([a], [[None], [None]], [1.0])
