"""`largest_scale` spends nearly all of a budget, and never more."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lightning_unlearn.functional.bisection import largest_scale


@pytest.mark.parametrize("budget", [1e-6, 0.01, 3.0])
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("factor", [1e-5, 1.0, 1e7])
def test_between_95_and_100_percent_is_spent(budget: float, power: float, factor: float) -> None:
    def cost(scale: float) -> float:
        return factor * scale**power

    scale = largest_scale(cost, budget)
    assert 0.95 * budget <= cost(scale) <= budget


@pytest.mark.parametrize(
    ("cost", "limit", "expected"),
    [
        (lambda scale: 0.0, 7.0, 7.0),  # nothing is spent: as far as is allowed
        (lambda scale: 1.0, math.inf, 0.0),  # each step costs too much
        (lambda scale: math.nan, math.inf, 0.0),
        (lambda scale: scale, 0.25, 0.25),
    ],
)
def test_where_the_budget_cannot_be_spent(cost: Callable[[float], float], limit: float, expected: float) -> None:
    assert largest_scale(cost, 0.5, limit=limit) == expected


def test_a_jump_is_left_on_the_side_that_is_within() -> None:
    tried: list[float] = []

    def jumps(scale: float) -> float:
        tried.append(scale)
        return 0.1 if scale < 0.3 else 2.0

    assert 0.29999 < largest_scale(jumps, 1.0) < 0.3
    assert len(tried) <= 40


def test_few_evaluations_are_enough() -> None:
    tried: list[float] = []
    largest_scale(lambda scale: tried.append(scale) or 1e-4 * scale**2, 0.01)
    assert len(tried) <= 12
