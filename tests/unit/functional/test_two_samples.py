"""The Kolmogorov-Smirnov test against a count of all orders, and how near a number is to its target."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from lightning_unlearn.functional.two_samples import kolmogorov_smirnov, symmetric_degree


def distance(places: tuple[int, ...], n: int, m: int) -> float:
    """Largest difference of the shares of both samples up to each place, if one has ``places`` of all."""
    taken = set(places)
    mine = theirs = most = 0
    for place in range(n + m):
        mine, theirs = mine + (place in taken), theirs + (place not in taken)
        most = max(most, abs(mine * m - theirs * n))
    return most / (n * m)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 3), (6, 5)])
def test_p_is_the_share_of_all_orders_that_are_at_least_as_far_apart(n: int, m: int) -> None:
    every = list(combinations(range(n + m), n))
    far = {places: distance(places, n, m) for places in every}
    for places in every[:: max(len(every) // 20, 1)]:
        some = [float(place) for place in places]
        others = [float(place) for place in range(n + m) if place not in places]
        found = kolmogorov_smirnov(some, others)
        assert found.statistic == pytest.approx(far[places], abs=1e-12)
        as_far = sum(each >= far[places] - 1e-9 for each in far.values()) / len(every)
        assert found.p_value == pytest.approx(as_far, rel=1e-9)


@pytest.mark.parametrize("n", [3, 40, 200, 400])
def test_samples_that_do_not_overlap_have_the_least_p(n: int) -> None:
    found = kolmogorov_smirnov([float(i) for i in range(n)], [1000.0 + i for i in range(n)])
    assert found.statistic == 1
    assert found.p_value == pytest.approx(2 / comb(2 * n, n), rel=1e-6)


def test_the_published_floors() -> None:
    """What tables of TOFU show of models that know nothing at all any more: 40, 200 and 400 questions."""
    floors = [f"{2 / comb(2 * n, n):.2e}" for n in (40, 200, 400)]
    assert floors == ["1.86e-23", "1.94e-119", "1.06e-239"]


def test_equal_samples_have_p_one() -> None:
    values = [0.1, 0.5, 0.5, 2.0, float("inf")]
    assert kolmogorov_smirnov(values, values[::-1]) == (0.0, 1.0)


def test_too_little_counts_as_too_much() -> None:
    for target in (0.01, 1.0, 60.0):
        assert symmetric_degree(target, target) == 1
        assert symmetric_degree(1.5 * target, target) == pytest.approx(0.5)
        assert symmetric_degree(0.5 * target, target) == pytest.approx(0.5)
        assert symmetric_degree(0.0, target) == symmetric_degree(2 * target, target) == 0
        assert symmetric_degree(7 * target, target) == 0
    assert symmetric_degree(0.0, 0.0) == 1
    assert symmetric_degree(0.1, 0.0) == 0
