"""Several runs as one result."""

import numpy as np
import pytest
from _studies import control, report_of, study

from lightning_unlearn.report import across_seeds, median_steps_across


def run(seed, spread):
    """A study of twelve authors whose attack brings back 3 / 7, and in each run a little more or less."""
    more = spread * np.random.default_rng(seed).normal()
    return report_of(study(back=(0.2, 0.4 + more)))


def test_runs_that_agree_have_the_interval_of_one():
    (_, row) = across_seeds([run(seed, 0.0) for seed in range(3)])
    alone = run(0, 0.0).recoveries[1].rho
    assert (row.attack, row.point, row.verdicts) == ("relearn", 2, 3)
    assert row.recovery.value == pytest.approx(alone.value)
    assert (row.recovery.low, row.recovery.high) == pytest.approx((alone.low, alone.high), abs=1e-3)


def test_runs_that_differ_widen_it():
    reports = [run(seed, 0.1) for seed in range(3)]
    (_, row) = across_seeds(reports)
    assert row.runs == [report.recoveries[1].rho.value for report in reports]
    assert row.recovery.value == pytest.approx(np.mean(row.runs))
    alone = reports[0].recoveries[1].rho
    assert row.recovery.high - row.recovery.low > 3 * (alone.high - alone.low)
    assert row.recovery.method == "studentised over entities, Student's t over seeds"


def test_only_what_all_runs_tried_is_put_together():
    rows = across_seeds([run(0, 0.0), report_of(study(back=(0.2,)))])
    assert [row.point for row in rows] == [1]


def test_a_run_without_a_control_makes_all_of_them_raw():
    controlled = report_of([*study(back=(0.4,)), *control(0.3)])
    (both,) = across_seeds([controlled, controlled])
    (mixed,) = across_seeds([controlled, report_of(study(back=(0.4,)))])
    assert both.recovery.value == pytest.approx(1 / 7)
    assert mixed.recovery.value == pytest.approx(3 / 7)


def test_one_run_alone_says_nothing_of_seeds():
    (row,) = across_seeds([report_of(study(back=(0.4,)))])
    assert row.recovery.low is None


def test_without_a_report_there_is_nothing_to_say():
    with pytest.raises(ValueError, match="one report or more, one for each seed. Found none"):
        across_seeds([])


def test_steps_are_counted_over_runs_and_those_that_never_recovered_count():
    reports = [report_of(study(back=back)) for back in ((0.2, 0.7), (0.2, 0.3), (0.2, 0.3))]
    assert median_steps_across(reports, "relearn").words == "> 2"
    assert median_steps_across(reports[:1], "relearn").number < 2
    assert median_steps_across(reports, "int4") is None
