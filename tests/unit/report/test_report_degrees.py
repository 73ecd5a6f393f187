"""How well it was forgotten and kept, as one number each."""

from dataclasses import replace

import pytest
from _studies import observed, report_of, study
from scipy import stats

from lightning_unlearn.report import harmonic_mean, pareto_front, symmetric_degree


@pytest.mark.parametrize(
    ("found", "wanted", "degree"), [(30, 30, 1), (0, 30, 0), (60, 30, 0), (45, 30, 0.5), (15, 30, 0.5), (90, 30, 0)]
)
def test_too_much_is_as_bad_as_too_little(found, wanted, degree):
    assert symmetric_degree(found, wanted) == pytest.approx(degree)


def test_nothing_wanted_is_met_by_nothing_alone():
    assert (symmetric_degree(0.0, 0.0), symmetric_degree(0.1, 0.0)) == (1.0, 0.0)


@pytest.mark.parametrize(("dropped", "kept"), [(0.7, 0.8), (0.1, 0.9), (1.0, 1.0)])
def test_the_harmonic_mean_is_scipys(dropped, kept):
    assert harmonic_mean(dropped, kept) == pytest.approx(stats.hmean([dropped, kept]))


@pytest.mark.parametrize(("dropped", "kept"), [(0.0, 1.0), (-0.2, 0.9), (0.9, 0.0)])
def test_who_forgets_or_keeps_nothing_has_a_mean_of_nothing(dropped, kept):
    assert harmonic_mean(dropped, kept) == 0


def test_a_report_compares_with_the_control_on_both_sets():
    never = [observed(0.2, 0, subject="control"), observed(0.8, 0, "retain", subject="control")]
    found = report_of([*study(retain=(0.9, 0.6)), *never]).summary["unlearning"]
    assert found == pytest.approx(
        {"forget_degree": 0.5, "retain_utility": 0.75, "h_mean": 2 * 0.7 * 0.6 / 1.3, "still_known": -1 / 6}
    )


def test_without_a_control_the_original_says_what_was_to_be_kept():
    found = report_of(study(retain=(0.8, 0.6))).summary["unlearning"]
    assert found["forget_degree"] is found["still_known"] is None
    assert found["retain_utility"] == pytest.approx(0.75)
    assert report_of(study(), floors={"probability": 0.1}).summary["unlearning"]["still_known"] == pytest.approx(0.0)


def test_a_metric_without_a_range_has_no_harmonic_mean():
    assert report_of([replace(o, bounds=None) for o in study()]).summary["unlearning"]["h_mean"] is None


def test_a_model_is_a_point_of_utility_and_robustness():
    front = report_of(study(retain=(0.8, 0.72), left=0.72)).summary["front"]
    assert front == pytest.approx({"utility": 0.9, "robustness": 1 - 3 / 7})
    assert report_of(study(back=(0.95,))).summary["front"]["robustness"] == 0  # more than everything
    assert report_of(study(back=())).summary["front"]["robustness"] is None


def test_the_front_holds_whom_nobody_beats():
    points = [(0.9, 0.2), (0.5, 0.8), (0.4, 0.8), (0.9, 0.1), (0.5, 0.8)]
    assert pareto_front(points) == [0, 1, 4]
