import numpy as np
import pytest
from scipy import stats

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import (
    adjusted_recovery_rate,
    percentile_interval,
    recovery_rate,
    resampled_means,
    retained_knowledge,
)
from lightning_unlearn.report.analysis._bootstrap import Bootstrap


def rows(scores):
    return [str(index) for index in range(len(scores))]


def scored(scores, entities=(), step=0, up=True):
    value = float(np.mean(scores))
    scores, entities = [float(score) for score in scores], list(entities)
    return Observation("m", "forget", value, step, scores=scores, entities=entities, higher_means_known=up)


def test_of_many_independent_rows_the_interval_is_the_normal_one():
    scores = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    low, high = percentile_interval(resampled_means(scores[:, None], rows(scores))[:, 0])
    expected = stats.norm.interval(0.95, loc=scores.mean(), scale=scores.std() / np.sqrt(len(scores)))
    assert (low, high) == pytest.approx(expected, abs=0.006)  # a tenth of the half width


def test_of_two_clusters_the_three_possible_means_come_with_their_odds():
    # clusters {1, 1} and {4}: drawing (a, a), (a, b) or (b, b) gives means 1, 2 and 4 with odds 1 : 2 : 1
    means = resampled_means(np.array([[1.0], [1.0], [4.0]]), ["a", "a", "b"], draws=8000)[:, 0]
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [1.0, 2.0, 4.0]
    assert counts / 8000 == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


def test_rows_of_one_entity_are_not_independent_so_their_interval_is_wider():
    generator = np.random.default_rng(0)
    authors = np.repeat(np.arange(20), 10)
    scores = (generator.normal(0, 1, 20)[authors] + generator.normal(0, 0.3, 200))[:, None]
    clustered = resampled_means(scores, [str(author) for author in authors]).std()
    independent = resampled_means(scores, rows(scores)).std()
    assert clustered > 2 * independent


def test_the_order_of_rows_does_not_matter():
    generator = np.random.default_rng(0)
    scores, who = generator.normal(size=(12, 2)), list("aabbbccddeef")
    order = generator.permutation(12)
    shuffled = resampled_means(scores[order], [who[index] for index in order], draws=50)
    np.testing.assert_allclose(shuffled, resampled_means(scores, who, draws=50))


def test_columns_share_their_draws():
    scores = np.random.default_rng(0).normal(size=30)
    means = resampled_means(np.stack([scores, scores + 1, 2 * scores], axis=1), rows(scores), draws=50)
    np.testing.assert_allclose(means[:, 1], means[:, 0] + 1)
    np.testing.assert_allclose(means[:, 2], 2 * means[:, 0])


def test_numerator_and_denominator_are_resampled_together():
    # every example returns to exactly half of its own gap: paired, the recovery has no spread at all
    generator = np.random.default_rng(0)
    unlearned, gap = generator.uniform(0, 0.3, 40), generator.uniform(0.1, 0.7, 40)
    found = Bootstrap().recovery(scored(unlearned + gap), scored(unlearned), scored(unlearned + gap / 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_recovery_of_many_rows_follows_the_delta_method():
    generator = np.random.default_rng(0)
    full, less = generator.normal(0.8, 0.1, 4000), generator.normal(0.1, 0.1, 4000)
    attacked = less + generator.normal(0.3, 0.2, 4000)
    found = Bootstrap().recovery(scored(full), scored(less), scored(attacked))
    over, under = attacked - less, full - less
    share = over.mean() / under.mean()
    error = (over - share * under).std() / under.mean() / np.sqrt(4000)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, share, error), abs=error / 5)


def test_the_bootstrap_covers_as_often_as_it_says():
    # 200 studies of 30 authors: 95 % intervals should miss the truth about 10 times, and a bit more for so few authors
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        authors = np.repeat(np.arange(30), 4)
        scores = (generator.normal(0, 1, 30)[authors] + generator.normal(0, 1, 120))[:, None]
        low, high = percentile_interval(resampled_means(scores, [str(a) for a in authors], draws=300)[:, 0])
        missed += not low <= 0 <= high
    assert 4 <= missed <= 24


@pytest.mark.parametrize(("attacked", "share"), [(0.1, 0.0), (0.9, 1.0), (0.5, 0.5), (1.3, 1.5), (-0.3, -0.5)])
def test_recovery_is_linear_between_unlearned_and_original(attacked, share):
    assert float(recovery_rate(0.9, 0.1, attacked)) == pytest.approx(share)


def test_recovery_does_not_care_which_way_a_metric_points():
    values = np.random.default_rng(0).normal(size=(3, 50))
    np.testing.assert_allclose(recovery_rate(*values), recovery_rate(*-values))


def test_without_a_gap_recovery_is_undefined():
    assert np.isnan(recovery_rate(0.5, 0.5, 0.9))


def test_a_control_that_learns_as_much_leaves_nothing_recovered():
    assert float(adjusted_recovery_rate(0.9, 0.1, 0.5, control=0.2, control_attacked=0.6)) == pytest.approx(0.0)
    assert float(adjusted_recovery_rate(0.9, 0.1, 0.5, control=0.2, control_attacked=0.2)) == pytest.approx(0.5)


def test_what_is_still_known_is_counted_from_the_floor():
    assert retained_knowledge(original=0.85, attacked=0.25, floor=0.25) == 0.0
    assert retained_knowledge(original=0.85, attacked=0.4, floor=0.25) == pytest.approx(0.25)


@pytest.mark.parametrize(("shift", "unbounded"), [(-0.2, True), (1.0, False)])
def test_a_ratio_is_unbounded_exactly_if_the_interval_of_its_gap_holds_zero(shift, unbounded):
    generator = np.random.default_rng(0)
    less = generator.normal(0.0, 1.0, 30)
    full, less, attacked = scored(less + generator.normal(shift, 1.0, 30)), scored(less), scored(less + 0.1)
    gap = Bootstrap().gap(full, less)
    assert (gap.low <= 0 <= gap.high) is unbounded
    assert Bootstrap().recovery(full, less, attacked).unbounded is unbounded


def test_over_an_unstable_gap_there_is_no_finite_interval():
    generator = np.random.default_rng(0)
    full, less, attacked = (scored(generator.normal(mean, 1.0, 30)) for mean in (0.05, 0.0, 0.0))
    found = Bootstrap().recovery(full, less, attacked)
    assert (found.unbounded, found.low, found.high) == (True, None, None)


def test_a_single_entity_gives_no_interval():
    assert Bootstrap().level(scored([0.1, 0.9], ["Ada", "Ada"])).low is None


def test_observations_of_other_examples_are_not_paired():
    found = Bootstrap().gap(scored([0.9, 0.8], ["a", "b"]), scored([0.1, 0.2], ["a", "c"]))
    assert (found.value, found.low) == (pytest.approx(0.7), None)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_model_that_says_nan_or_inf_gives_no_interval(broken):
    found = Bootstrap().recovery(scored([0.9, 0.8]), scored([0.1, 0.2]), scored([broken, 0.3]))
    assert (found.low, found.high) == (None, None)


def test_a_gap_is_positive_if_the_original_knew_more():
    up = Bootstrap().gap(scored([0.9, 0.8, 0.9]), scored([0.1, 0.1, 0.2]))
    down = Bootstrap().gap(scored([0.1, 0.1, 0.2], up=False), scored([0.9, 0.8, 0.9], up=False))
    assert up == down
    assert up.value > 0


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(0).uniform(size=20)
    assert Bootstrap(seed=1).level(scored(scores)) == Bootstrap(seed=1).level(scored(scores))
    assert Bootstrap(seed=1).level(scored(scores)) != Bootstrap(seed=2).level(scored(scores))
