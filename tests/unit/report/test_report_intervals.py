"""Intervals that hold what they promise, and say how they were made."""

import numpy as np
import pytest
from interval_coverage_parts._designs import DESIGNS
from interval_coverage_parts._levels import coverage_over_seeds
from interval_coverage_parts._studies import coverage, coverage_of_these, ours, studied
from scipy import stats

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import Interval, share_interval, studentised_interval, two_way_interval
from lightning_unlearn.report.analysis._bootstrap import MIN_ENTITIES, OVER_ENTITIES, OVER_ROWS, Bootstrap
from lightning_unlearn.report.analysis._mover import interval_of_ratio, interval_of_sum
from lightning_unlearn.report.analysis._parts import (
    COMBINED,
    EXACT,
    EXACT_OVER_ENTITIES,
    EXACT_OVER_ROWS,
    GIVEN,
)
from lightning_unlearn.report.analysis._totals import Totals

BY_NAME = {design.name: design for design in DESIGNS}
FAST = {"studies": 1000, "draws": 500}


def seen(scores, rows=1, split="forget", **other):
    entities = [f"author {number // rows:03}" for number in range(len(scores))]
    scores = [float(score) for score in scores]
    return Observation("m", split, sum(scores) / len(scores), scores=scores, entities=entities, **other)


@pytest.mark.parametrize(
    "name", ["level about 0.5", "gap", "recovery", "recovery beyond the control", "share of yes, about 0.5"]
)
def test_intervals_hold_the_truth_in_93_to_97_of_100_studies(name):
    found = coverage(BY_NAME[name], 20, "1 to 20", 0.5, **FAST)
    assert 0.93 <= found["ours"]["held"] <= 0.975


def test_percentile_intervals_of_few_entities_do_not():
    found = coverage(BY_NAME["level about 0.1, skewed"], 10, "5", 0.5, **FAST)
    assert found["percentile"]["held"] < 0.88
    assert found["ours"]["held"] > 0.91


@pytest.mark.parametrize("name", ["gap", "recovery"])
def test_of_three_entities_the_interval_is_true_of_these_three(name):
    assert coverage_of_these(BY_NAME[name], 3, 20, 0.5, studies=150, draws=500)["ours"]["held"] >= 0.92


def test_an_interval_over_seeds_holds_the_truth_where_one_seed_alone_does_not():
    found = coverage_over_seeds(3, 10, 1.0, studies=200, draws=300)
    assert found["ours"]["held"] >= 0.93
    assert found["one seed alone"]["held"] < 0.75


def test_the_benchmark_measures_the_intervals_of_the_report():
    for name in ("level about 0.1, skewed", "recovery of a small gap"):
        design = BY_NAME[name]
        over, under = studied(design, 8, "1 to 20", 0.5, 3, np.random.default_rng(0))
        for number, ends in enumerate(zip(*ours(over, under, design, 300), strict=True)):
            value = over[number].sum() / under[number].sum()
            found = Bootstrap(300).of_totals(Totals(over[number], under[number], design.divides), Interval(value))
            shown = (-np.inf, np.inf) if found.unbounded else (found.low, found.high)
            assert shown == pytest.approx(ends)


@pytest.mark.parametrize("number", [5, 12, 40])
def test_an_interval_is_never_narrower_than_students_t(number):
    scores = np.random.default_rng(number).exponential(size=number)
    low, high = studentised_interval(scores, np.ones(number))
    least, most = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert low <= least + 1e-12
    assert high >= most - 1e-12
    # the long tail is above: there the truth may be further away
    assert high - scores.mean() > scores.mean() - low


def test_of_many_entities_it_is_the_normal_one():
    scores = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    expected = stats.norm.interval(0.95, loc=scores.mean(), scale=scores.std() / np.sqrt(4000))
    assert studentised_interval(scores, np.ones(4000)) == pytest.approx(expected, abs=0.001)


def test_an_interval_moves_with_its_scores():
    scores, counts = np.random.default_rng(0).exponential(size=(2, 9))
    low, high = studentised_interval(scores, counts)
    assert studentised_interval(2 * scores + 3 * counts, counts) == pytest.approx((2 * low + 3, 2 * high + 3))
    assert studentised_interval(-scores, counts) == pytest.approx((-high, -low))


@pytest.mark.parametrize("yes", [0, 1, 4, 10])
def test_a_share_has_the_exact_interval(yes):
    found = Bootstrap().level(seen([1] * yes + [0] * (10 - yes)))
    expected = stats.binomtest(yes, 10).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.method == EXACT


def test_questions_about_one_entity_count_for_less_than_strangers():
    generator = np.random.default_rng(0)
    own = np.repeat(generator.random(10) < 0.5, 5).astype(float)  # an entity says all yes, or all no
    alike = Bootstrap().level(seen(own, rows=5))
    expected = stats.binomtest(int(own.sum() / 5), 10).proportion_ci(0.95)
    # ten entities that are all of one opinion are worth ten examples, or a little less
    assert 1 <= (alike.high - alike.low) / (expected.high - expected.low) < 1.2
    strangers = Bootstrap().level(seen(own))
    assert alike.high - alike.low > 1.8 * (strangers.high - strangers.low)
    assert alike.method == EXACT_OVER_ENTITIES


def test_answers_that_are_all_the_same_are_not_certain():
    low, high = share_interval(np.zeros(10), np.full(10, 20.0))
    assert (low, high) == pytest.approx((0, 1 - 0.025**0.1))  # ten entities, not two hundred rows
    gap = Bootstrap().gap(seen([1] * 10), seen([0] * 10))
    assert (gap.value, gap.high, gap.method) == (1.0, 1.0, COMBINED)
    assert 0.5 < gap.low < 0.6  # 1 - sqrt(2) 0.3085
    back = Bootstrap().recovery(seen([1] * 10), seen([0] * 10), seen([0] * 10))
    assert back.low < 0 < back.high < 0.5


@pytest.mark.parametrize(("scores", "method"), [((0.25, 0.5, 0.75), OVER_ROWS), ((0.0, 1.0, 1.0), EXACT_OVER_ROWS)])
def test_of_few_entities_questions_are_resampled_and_the_method_says_so(scores, method):
    few = Bootstrap().level(seen(scores * 4, rows=3))
    alone = Bootstrap().level(seen(scores * 4))
    assert (few.low, few.high) == (alone.low, alone.high)
    assert (few.entities, few.method) == (4, method)


@pytest.mark.parametrize(("entities", "method"), [(MIN_ENTITIES, OVER_ENTITIES), (MIN_ENTITIES - 1, "")])
def test_of_few_entities_with_one_question_each_there_is_no_interval(entities, method):
    found = Bootstrap().level(seen(np.linspace(0.2, 0.8, entities)))
    assert (found.low is not None, found.method) == (bool(method), method)


def test_an_interval_never_leaves_the_range_of_its_metric():
    scores = [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]
    assert Bootstrap().level(seen(scores)).low < 0
    assert Bootstrap().level(seen(scores, bounds=(0.0, 1.0))).low == 0


def test_an_audits_own_interval_is_passed_on_and_combined():
    full, less, attacked = (
        Observation("auc", "forget", value, interval=(value - 0.0625, value + 0.0625), scores=[7.0] * 9)
        for value in (0.875, 0.5, 0.6875)
    )
    assert Bootstrap().level(full) == Interval(0.875, 0.8125, 0.9375, examples=9, entities=9, method=GIVEN)
    gap = Bootstrap().gap(full, less)
    assert (gap.low, gap.high) == pytest.approx((0.375 - 0.0625 * 2**0.5, 0.375 + 0.0625 * 2**0.5))
    back = Bootstrap().recovery(full, less, attacked)
    assert (back.value, back.method) == (pytest.approx(0.5), COMBINED)
    assert 0.2 < back.low < 0.5 < back.high < 0.8


def test_a_ratio_of_independent_parts_has_fiellers_interval():
    over, under, s, t = 0.6, 1.2, 0.1, 0.2
    parts = [Interval(over, over - s, over + s), Interval(under, under - t, under + t)]
    # (a - r b)^2 <= s^2 + r^2 t^2, solved for r
    roots = np.sort(np.roots([under**2 - t**2, -2 * over * under, over**2 - s**2]).real)
    assert interval_of_ratio(parts, [1, 0], [0, 1]) == pytest.approx(roots, abs=1e-8)
    mirrored = [parts[0], Interval(-under, -under - t, -under + t)]
    assert interval_of_ratio(mirrored, [1, 0], [0, 1]) == pytest.approx(-roots[::-1], abs=1e-8)


def test_a_sum_takes_from_each_part_the_end_that_counts():
    parts = [Interval(0.5, 0.4, 0.8), Interval(0.2, 0.2, 0.6)]
    assert interval_of_sum(parts, [1, -1]) == pytest.approx((0.3 - np.hypot(0.1, 0.4), 0.3 + np.hypot(0.3, 0.0)))


def test_seeds_that_do_not_differ_add_nothing():
    scores = np.random.default_rng(0).exponential(size=9)
    alone = studentised_interval(scores, np.ones(9))
    assert two_way_interval(np.stack([scores] * 3), np.ones((3, 9))) == pytest.approx(alone)


def test_of_seeds_alone_the_interval_is_students_t():
    by_seed = np.array([0.2, 0.5, 0.9])
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    found = two_way_interval(np.repeat(by_seed[:, None], 6, axis=1), np.ones((3, 6)))
    assert found == pytest.approx((expected.low, expected.high))
