"""Steps to recover, which are never claimed beyond what was tried."""

import numpy as np
import pytest
from _studies import control, report_of, study
from scipy import integrate

from lightning_unlearn.report import RobustnessReport, Steps, area_under_recovery, median_steps, steps_to_recover

GRID = [0, 1, 2, 5, 10, 20, 50, 100]


@pytest.mark.parametrize("wanted", [0.1, 0.5, 0.9])
def test_steps_of_a_curve_that_is_linear_in_log_time_are_exact(wanted):
    shares = np.log1p(GRID) / np.log(101)
    assert steps_to_recover(GRID, shares, wanted).number == pytest.approx(101**wanted - 1)


def test_what_was_not_reached_is_beyond_the_last_step_and_never_it():
    found = steps_to_recover(GRID, [0.0] + [0.4] * 7, 0.5)
    assert (found.number, found.reached, found.words) == (100, False, "> 100")


def test_the_first_crossing_counts_where_a_curve_rises_and_falls():
    assert steps_to_recover([0, 1, 2, 5], [0.0, 0.6, 0.1, 0.9], 0.5).number < 1


def test_a_curve_without_a_start_starts_at_nothing():
    assert steps_to_recover([3], [0.5], 0.5) == steps_to_recover([0, 3], [0.0, 0.5], 0.5)


def test_the_area_is_the_integral_of_the_cut_curve():
    shares = [-0.2, 0.1, 0.3, 0.9, 1.0, 0.7, 0.8, 0.95]
    area, _ = integrate.quad(lambda t: np.interp(t, GRID, np.clip(shares, 0, 1)), 0, 100, points=GRID, limit=200)
    assert area_under_recovery(GRID, shares) == pytest.approx(area / 100)
    axis = np.log10(1 + np.array(GRID))
    area, _ = integrate.quad(lambda t: np.interp(t, axis, np.clip(shares, 0, 1)), 0, 2.0043, points=axis, limit=200)
    assert area_under_recovery(GRID, shares, log=True) == pytest.approx(area / 2.0043, rel=1e-3)


@pytest.mark.parametrize(("shares", "area"), [([0.0] * 8, 0.0), ([1.0] * 8, 1.0), ([3.0] * 8, 1.0), ([-1.0] * 8, 0.0)])
def test_never_is_0_and_at_once_is_1(shares, area):
    assert area_under_recovery(GRID, shares) == area_under_recovery(GRID, shares, log=True) == area


def product_limit(found):
    """The first time at which the product of (1 - deaths / alive) is one half or less."""
    survival = 1.0
    for time in sorted({steps.number for steps in found if steps.reached}):
        alive = sum(steps.number >= time for steps in found)
        survival *= 1 - sum(steps.number == time and steps.reached for steps in found) / alive
        if survival <= 0.5 + 1e-12:
            return time
    return None


def test_the_median_is_kaplan_and_meiers():
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(40):
        times, budget = generator.integers(1, 9, 7), generator.integers(2, 9, 7)
        found = [Steps(float(min(t, b)), reached=bool(t <= b)) for t, b in zip(times, budget, strict=True)]
        expected, median = product_limit(found), median_steps(found)
        assert (median.number if median.reached else None) == expected
        medians.append(expected)
    assert None in medians
    assert len(set(medians)) > 3


def test_of_runs_that_never_recovered_the_median_is_beyond_all_of_them():
    assert median_steps([Steps(20, reached=False), Steps(50, reached=False)]) == Steps(50, reached=False)
    assert median_steps([]) is None


def test_a_report_counts_steps_beyond_the_control_and_says_what_was_not_reached():
    made = report_of(study(back=(0.2, 0.5, 0.7)))
    (row,) = made.summary["effort"]
    # (0.45 - 0.1) / 0.7 is one half: between 1 and 2 steps
    assert 1 < row["to_half"]["steps"] < 2
    assert row["to_90"] == {"steps": 3.0, "reached": False, "words": "> 3"}
    assert (row["budget"], row["most"]) == (3, pytest.approx(6 / 7))
    assert 0 < row["area"] < row["most"]
    assert made.summary["least_effort"] == {"attack": "relearn", **row["to_half"]}
    assert made.summary["median_effort"]["attacks"] == 1
    (beyond,) = report_of([*study(back=(0.7,)), *control(0.65)]).summary["effort"]
    assert not beyond["to_half"]["reached"]


def test_attacks_that_count_no_steps_have_no_effort():
    observations = [o for o in study(family="quant") if not o.attacked]
    made = report_of([*observations, *(o for o in study(family="quant") if o.attacked)])
    assert made.summary["effort"] == []
    assert made.summary["least_effort"] is None


def test_a_summary_survives_its_json():
    made = report_of(study(back=(0.2, 0.5)))
    assert RobustnessReport.from_json(made.to_json()).summary == made.summary
