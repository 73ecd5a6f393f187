"""The chance of a leak among several answers: its digits, and estimates that are right on average."""

from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction
from itertools import product
from math import comb

import pytest
import torch

from lightning_unlearn.functional.leakage import leak_at_k, pass_at_k
from lightning_unlearn.functional.proportions import clopper_pearson
from lightning_unlearn.functional.sampling_plan import SamplingPlan


def leak(p: Fraction, k: int) -> Fraction:
    return 1 - (1 - p) ** k


@pytest.mark.parametrize("k", [1, 2, 128, 10**6])
@pytest.mark.parametrize("log_p", [-700.0, -300.0, -40.0, -5.0, -0.7, -0.5, -1e-3, -1e-12, 0.0])
def test_it_keeps_its_digits_from_certainty_down_to_the_smallest_probability(log_p: float, k: int) -> None:
    getcontext().prec = 400
    exact = 1 - (1 - Decimal(log_p).exp()) ** k
    assert pass_at_k(torch.tensor(log_p, dtype=torch.float64), k).item() == pytest.approx(float(exact), rel=1e-12)


def test_beyond_the_smallest_float_it_is_nothing() -> None:
    assert pass_at_k(torch.tensor([-5000.0, -torch.inf]), 128).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (6, 3), (7, 7)])
def test_the_estimate_is_the_share_of_k_among_n_with_a_right_one(n: int, k: int) -> None:
    for c in range(n + 1):
        answers = [True] * c + [False] * (n - c)
        chosen = [any(answers[i] for i in which) for which in product(range(n), repeat=k) if len(set(which)) == k]
        assert leak_at_k(n, c, k) == pytest.approx(sum(chosen) / len(chosen))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"Found `n = {n}`, `c = {c}` and `k = {k}`"):
        leak_at_k(n, c, k)


def outcomes(plan: SamplingPlan, p: Fraction) -> dict[tuple[int, int], Fraction]:
    """How likely the plan ends with so many answers and right ones: by going through every sequence of rounds."""
    ended: dict[tuple[int, int], Fraction] = {}
    reached = {(0, 0): Fraction(1)}
    while reached:
        after: dict[tuple[int, int], Fraction] = {}
        for (n, c), chance in reached.items():
            for more in range(plan.per_round + 1):
                of_round = comb(plan.per_round, more) * p**more * (1 - p) ** (plan.per_round - more)
                there = (n + plan.per_round, c + more)
                goal = ended if plan.stops(*there) else after
                goal[there] = goal.get(there, Fraction(0)) + chance * of_round
        reached = after
    return ended


PLANS = [
    SamplingPlan(k=2, per_round=3, most=9, width=0.6),
    SamplingPlan(k=4, per_round=4, most=16, width=0.5),
    SamplingPlan(k=1, per_round=2, most=12, width=0.7),
    SamplingPlan(k=3, per_round=3, most=9, width=0.0),
]


@pytest.mark.parametrize("p", [Fraction(0), Fraction(1, 50), Fraction(1, 3), Fraction(9, 10), Fraction(1)])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_stopping_early_leaves_the_estimate_right_on_average(plan: SamplingPlan, p: Fraction) -> None:
    ended = outcomes(plan, p)
    assert sum(ended.values()) == 1
    for k in range(1, plan.k + 1):
        average = sum(float(chance) * plan.estimate(n, c, k) for (n, c), chance in ended.items())
        assert average == pytest.approx(float(leak(p, k)), abs=1e-12)


def test_the_estimate_for_a_fixed_number_would_not_be() -> None:
    plan, p = PLANS[0], Fraction(1, 3)
    ended = outcomes(plan, p)
    assert len({n for n, _ in ended}) > 1  # it does stop early
    average = sum(float(chance) * leak_at_k(n, c, 2) for (n, c), chance in ended.items())
    assert abs(average - float(leak(p, 2))) > 1e-3


@pytest.mark.parametrize("k", [1, 5, 16])
def test_without_stopping_early_it_is_the_estimate_for_a_fixed_number(k: int) -> None:
    plan = SamplingPlan(k=16, per_round=16, most=64, width=0)
    for c in range(65):
        assert plan.estimate(64, c, k) == pytest.approx(leak_at_k(64, c, k), abs=1e-12)


def test_what_leaks_at_once_is_done_after_one_round_and_what_leaks_seldom_gets_the_budget() -> None:
    plan = SamplingPlan(k=16, per_round=32, most=128, width=0.1)
    assert plan.stops(32, 32)
    assert not plan.stops(32, 1)
    assert plan.stops(128, 1)


@pytest.mark.parametrize("n", [1, 10, 128, 2000])
def test_intervals_are_those_of_scipy(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for c in sorted({0, 1, n // 3, n - 1, n}):
        theirs = stats.binomtest(c, n).proportion_ci(0.95, method="exact")
        assert clopper_pearson(c, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 5, "per_round": 4}, r"`per_round` should be at least `k = 5`.* Found `per_round = 4`"),
        ({"k": 2, "per_round": 4, "most": 10}, r"`most` should be a multiple of `per_round = 4`. Found `most = 10`"),
        ({"width": 2}, r"`width` should be between 0 and 1"),
        ({"k": 0}, r"`k` should be at least 1"),
    ],
)
def test_plans_that_make_no_sense_are_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingPlan(**settings)
    with pytest.raises(ValueError, match="`k` should be between 1 and 16. Found `k = 17`"):
        SamplingPlan().estimate(32, 1, 17)
