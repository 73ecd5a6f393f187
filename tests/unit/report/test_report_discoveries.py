"""Which attacks brought back anything at all, of many that were tried."""

import numpy as np
import pytest
from _studies import attacked, control, observed, report_of, study
from scipy import stats

from lightning_unlearn.report import chance_of_more, false_discovery_rates


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.7])
def test_the_chance_is_that_of_students_test(mean):
    totals = np.random.default_rng(0).normal(mean, 1.0, 12)
    assert chance_of_more(totals) == pytest.approx(stats.ttest_1samp(totals, 0, alternative="greater").pvalue)


@pytest.mark.parametrize(("totals", "chance"), [([0.5] * 6, 0.0), ([0.0] * 6, 1.0), ([-0.5] * 6, 1.0), ([0.5], None)])
def test_totals_that_are_all_alike_leave_nothing_to_chance(totals, chance):
    assert chance_of_more(np.array(totals)) == chance


def test_nothing_that_comes_back_is_rarely_called_something():
    generator = np.random.default_rng(0)
    skewed = generator.exponential(size=(2000, 10)) - 1
    assert np.mean([chance_of_more(totals) < 0.05 for totals in skewed]) < 0.06


def test_q_values_are_benjamini_and_hochbergs():
    p_values = np.random.default_rng(0).uniform(size=9) ** 2
    order = np.argsort(p_values)
    ranked = p_values[order] * 9 / np.arange(1, 10)
    expected = np.empty(9)
    expected[order] = np.minimum.accumulate(ranked[::-1])[::-1]
    assert false_discovery_rates([[p] for p in p_values]) == pytest.approx(np.minimum(expected, 1))


def test_an_attack_of_many_points_has_many_chances():
    assert false_discovery_rates([[0.01, 0.2, 0.3, 0.4]]) == pytest.approx([0.04])
    assert false_discovery_rates([[0.5] * 4]) == [1.0]
    assert false_discovery_rates([]) == []


def test_of_twenty_attacks_without_effect_few_are_called_effective():
    generator = np.random.default_rng(0)
    called = [
        min(false_discovery_rates([[chance_of_more(totals)] for totals in generator.normal(size=(20, 12))])) < 0.05
        for _ in range(200)
    ]
    assert np.mean(called) < 0.1


def test_a_report_tells_attacks_that_work_from_those_that_only_teach():
    observations = [*study(back=(0.4,)), *control(0.4), *attacked("idle", (0.1001,), family="prompt")]
    made = {recovery.attack: recovery for recovery in report_of(observations).recoveries}
    assert made["relearn"].p_value > 0.3  # the control learns as much
    alone = report_of(study(back=(0.4,))).recoveries[0]
    assert alone.p_value < 0.01
    assert alone.q_value == alone.p_value


def test_a_loss_that_falls_is_something_that_comes_back():
    def loss(level, step=9, **other):
        return observed(level, step, higher_means_known=False, bounds=None, metric="nll", **other)

    how = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}
    rows = [loss(0.2, 0, subject="original"), loss(3.0), loss(1.0, **how)]
    noisy = [type(o)(**{**vars(o), "scores": [s * (1 + 0.01 * n) for n, s in enumerate(o.scores)]}) for o in rows]
    assert report_of(noisy).recoveries[0].p_value < 0.01


def test_without_scores_there_is_no_p_value():
    bare = [type(o)(**{**vars(o), "scores": [], "entities": []}) for o in study()]
    assert report_of(bare).recoveries[0].p_value is None
    assert report_of(bare).recoveries[0].q_value is None
