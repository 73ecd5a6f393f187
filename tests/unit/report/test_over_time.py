"""What observations tell over time, in float64 against oracles from scipy and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import linregress

from lightning_unlearn.observation import Observation, Subject
from lightning_unlearn.report.analysis.over_time import (
    attacks_over_time,
    brackets,
    during_the_fit,
    effectivity,
    facts_gained,
    forgetting,
    log_time_decay,
    oscillation,
    over_time,
    retainability,
    retention_curves,
    transfer,
    transfer_matrix,
    under_attack,
    unlearning_depth,
    without_outliers,
)

TIMES = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]


def seen(split: str, value: float, subject: Subject = "unlearned", step: int = 0, **about: object) -> Observation:
    return Observation("p", split, value, subject=subject, step=step, **about)  # type: ignore[arg-type]


def a_run() -> list[Observation]:
    """Forgets by a line in log time; relearns; keeps most of the rest. The control knows a tenth."""
    run = [seen(split, 1.0, "original") for split in ("forget", "retain")]
    for step in (1, 10, 100):
        run += [seen("forget", 1.0 - 0.2 * math.log(step), step=step), seen("retain", 0.95, step=step)]
    run += [
        seen("forget", v, step=100, attack="relearn", point=p, unit="step") for p, v in ((1, 0.2), (20, 0.6), (80, 0.9))
    ]
    run += [seen("forget", 0.3, step=100, attack="int4", point=4, unit="bits")]
    return [*run, seen("forget", 0.1, "control"), seen("retain", 0.1, "control")]


@pytest.mark.parametrize("constant", [0.05, 0.2, 0.9])
def test_a_line_in_log_time_gives_its_own_constant_and_the_time_at_which_nothing_is_left(constant: float) -> None:
    found = log_time_decay([(t, 1 - constant * math.log(t)) for t in TIMES if t])
    assert found is not None
    assert found.constant == pytest.approx(constant, abs=1e-12)
    assert found.gone_at == pytest.approx(math.exp(1 / constant))
    assert found.r_squared == pytest.approx(1.0)


def test_a_noisy_line_is_that_of_scipy() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, len(TIMES))
    points = [(t, 0.9 - 0.1 * math.log(max(t, 1)) + e) for t, e in zip(TIMES, noise, strict=True)]
    found = log_time_decay(points)
    expected = linregress([math.log(t) for t, _ in points if t >= 1], [y for t, y in points if t >= 1])
    assert found is not None
    assert found.constant == pytest.approx(-expected.slope, rel=1e-10)
    assert found.gone_at == pytest.approx(math.exp(-expected.intercept / expected.slope), rel=1e-8)
    assert found.r_squared == pytest.approx(expected.rvalue**2, rel=1e-10)
    assert found.n == 7


def test_the_constant_does_not_depend_on_the_unit_of_time() -> None:
    points = [(t, 0.8 - 0.13 * math.log(t)) for t in TIMES if t]
    by_steps, by_seconds = log_time_decay(points), log_time_decay([(60 * t, y) for t, y in points])
    assert by_steps is not None
    assert by_seconds is not None
    assert by_seconds.constant == pytest.approx(by_steps.constant)
    assert by_seconds.gone_at == pytest.approx(60 * by_steps.gone_at)


def test_what_does_not_decay_is_never_gone_and_two_points_are_no_line() -> None:
    kept = log_time_decay([(1, 0.9), (10, 0.9), (100, 0.9)])
    assert kept is not None
    assert (kept.constant, kept.gone_at, kept.r_squared) == (0.0, math.inf, 1.0)
    assert log_time_decay([(0, 1.0), (0.5, 0.9), (1, 0.9), (10, 0.5)]) is None


def test_effectivity_is_the_best_within_the_window_and_negative_where_knowledge_falls() -> None:
    values = [-5.0, -4.0, -3.0, -2.5, -2.7, -2.9, -3.5, -1.0]
    best = effectivity(TIMES, values)
    assert best is not None
    assert (best.gain, best.at) == (2.5, 5.0)  # not that at 100, which is later
    everything = effectivity(TIMES, values, window=200)
    assert everything is not None
    assert everything.at == 100.0
    falling = effectivity(TIMES, [-t for t in TIMES])
    assert falling is not None
    assert falling.gain == -1.0
    assert effectivity([0, 100], [0.0, 1.0]) is None
    assert effectivity([1, 2], [0.0, 1.0]) is None  # nothing is known of the start


def test_retainability_is_one_at_the_peak_zero_at_the_level_before_and_does_not_see_what_came_earlier() -> None:
    found = retainability([0, 1, 2, 3, 4], [-9.0, -3.0, -1.0, -2.0, -3.0], before=-3.0, peak=2)
    assert found == [(0, 1.0), (1, 0.5), (2, 0.0)]
    assert retainability([0, 1], [-3.0, -4.0], before=-3.0, peak=0) == []


def test_outliers_are_those_beyond_the_quartiles() -> None:
    values = [*map(float, range(20)), 500.0, -500.0]
    low, high = np.quantile(values, [0.25, 0.75])
    assert without_outliers(values) == [v for v in values if low - 1.5 * (high - low) <= v <= high + 1.5 * (high - low)]
    assert without_outliers(values) == list(map(float, range(20)))
    assert without_outliers([]) == []


def test_series_start_with_the_model_they_start_from_and_rounding_is_no_time() -> None:
    run = a_run()
    fit = during_the_fit(run, "p", "forget")
    assert fit.times == [0, 1, 10, 100]
    attack = under_attack(run, "p", "forget", "relearn")
    assert attack.times == [0, 1, 20, 80]
    assert attack.values == [pytest.approx(1 - 0.2 * math.log(100)), 0.2, 0.6, 0.9]
    assert attacks_over_time(run) == ["relearn"]


def test_only_the_last_run_of_an_attack_counts() -> None:
    early = [seen("forget", 0.99, step=10, attack="relearn", point=p, unit="step") for p in (1, 5)]
    assert under_attack([*early, *a_run()], "p", "forget", "relearn").times == [0, 1, 20, 80]


def test_levels_of_which_less_is_more_turn_their_sign() -> None:
    losses = [Observation("nll", "forget", v, step=s, subject=who, higher_means_known=False)
              for s, v, who in ((0, 0.1, "original"), (5, 3.0, "unlearned"))]  # fmt: skip
    assert during_the_fit(losses, "nll", "forget").values == [-0.1, -3.0]
    (curve,) = retention_curves(losses, "nll", floor=4.0)
    assert curve.floor == -4.0
    assert curve.shares == [1.0, pytest.approx(1.0 / 3.9)]


def test_curves_are_shares_of_what_the_original_knew_beyond_the_control() -> None:
    curves = {(c.series.split, c.series.attack): c for c in retention_curves(a_run(), "p")}
    assert list(curves) == [("forget", "none"), ("forget", "relearn"), ("retain", "none")]
    forget = curves["forget", "none"]
    assert forget.shares == pytest.approx([(v - 0.1) / 0.9 for v in forget.series.values])
    assert forget.decay is not None
    assert forget.decay.constant == pytest.approx(0.2 / 0.9)
    relearn = curves["forget", "relearn"]
    assert relearn.effectivity is not None
    assert relearn.effectivity.gain == pytest.approx(0.6 - relearn.series.values[0])


def test_without_a_floor_there_are_levels_and_no_shares() -> None:
    run = [o for o in a_run() if o.subject != "control"]
    assert {len(curve.shares) for curve in retention_curves(run, "p")} == {0}


def test_facts_are_looked_at_one_by_one_and_those_that_gain_nothing_are_dropped() -> None:
    names = ["Ada", "Ada", "Bo"]
    run = [seen("forget", 0.1, scores=[0.1, 0.2, 0.1], entities=names)]
    run += [
        seen("forget", 0.4, scores=s, entities=names, attack="relearn", point=p, unit="step")
        for p, s in ((5, [0.3, 0.2, 0.7]), (20, [0.6, 0.1, 0.5]), (100, [1.0, 1.0, 1.0]))
    ]
    found = facts_gained(run, "p", "relearn")
    assert found.gains == {0: pytest.approx(0.5), 2: pytest.approx(0.6)}
    assert (found.entities, found.dropped) == (["Ada", "Bo"], 1)
    assert found.mean == pytest.approx(0.55)


def test_examples_that_an_attacker_trained_on_are_matched_by_number() -> None:
    run = [seen("forget", 0.2, scores=[0.1, 0.2, 0.3])]
    run += [seen("forget", 0.7, scores=[0.9], examples=[2], attack="relearn", point=5, unit="step")]
    assert facts_gained(run, "p", "relearn").gains == {2: pytest.approx(0.6)}


def test_transfer_is_zero_where_nothing_fell_and_one_where_all_did_those_that_fell_most_first() -> None:
    names = ["Ada", "Bo", "Cy"]
    run = [
        seen("retain", 0.9, "original", scores=[0.9] * 3, entities=names),
        seen("retain", 0.5, step=9, scores=[0.9, 0.1, 0.5], entities=names),
        seen("retain", 0.1, "control", scores=[0.1] * 3, entities=names),
    ]
    found = [(row.entity, row.forget_ratio) for row in transfer(run, "p")]
    assert found == [("", pytest.approx(0.5)), ("Bo", 1.0), ("Cy", pytest.approx(0.5)), ("Ada", 0.0)]


@pytest.mark.parametrize("control", [0.001, 0.002, 0.049])
def test_of_what_was_never_known_no_share_is_given(control: float) -> None:
    """A ratio of two differences of noise would look like a result."""
    run = [seen("holdout", 0.05, "original"), seen("holdout", 0.02, step=9), seen("holdout", control, "control")]
    assert [row.forget_ratio for row in transfer(run, "p")] == [None]
    assert [(curve.shares, curve.decay) for curve in retention_curves(run, "p")] == [([], None)]


def test_a_loss_that_rises_is_forgetting() -> None:
    run = [Observation("nll", "retain", v, subject=s, higher_means_known=False)
           for v, s in ((1.0, "original"), (2.0, "unlearned"), (5.0, "control"))]  # fmt: skip
    assert [row.forget_ratio for row in transfer(run, "nll")] == [0.25]


def test_a_matrix_has_a_row_for_each_request_and_a_column_for_each_split() -> None:
    def run(**after: float) -> list[Observation]:
        return [o for s, v in after.items() for o in (seen(s, 1.0, "original"), seen(s, v, step=1))]

    found = transfer_matrix({"chess": run(chess=0.0, go=0.5), "go": run(chess=1.0, go=0.0, bridge=0.9)}, "p", floor=0.0)
    assert (found.requests, found.splits) == (["chess", "go"], ["chess", "go", "bridge"])
    assert found.ratios == [[1.0, 0.5, None], [0.0, 1.0, pytest.approx(0.1)]]


def test_brackets_place_a_model_between_no_care_and_all_at_once() -> None:
    run = [seen("retain", 0.8, step=3), seen("retain", 0.1, step=3, attack="int4"), seen("forget", 0.2, step=3)]
    references = {
        "specialised": [seen("retain", 0.95)],
        "joint": [seen("retain", 0.9, "original")],
        "sequential": [seen("retain", 0.4)],
    }
    (found,) = brackets(run, references, "p")
    assert found.place == pytest.approx(0.8)
    assert found.references == {"specialised": 0.95, "joint": 0.9, "sequential": 0.4}
    (alone,) = brackets(run, {"specialised": references["specialised"]}, "p")
    assert alone.place is None


def test_a_fit_that_swings_is_told_from_one_that_arrives() -> None:
    steps = [float(s) for s in range(0, 101, 5)]
    swinging = oscillation(steps, [0.8 + 0.2 * (-1) ** i for i in range(len(steps))])
    arriving = oscillation(steps, [1 - 0.5 ** (s / 5) for s in steps])
    assert swinging is not None
    assert arriving is not None
    assert (swinging.turns, arriving.turns) == (1.0, 0.0)
    assert swinging.swing == pytest.approx(0.4)
    assert arriving.residual < 1e-2 < swinging.residual
    late = [
        v for s, v in zip(steps, [abs(0.8 + 0.2 * (-1) ** i - 1) for i in range(len(steps))], strict=True) if s >= 50
    ]
    assert swinging.residual == pytest.approx(np.mean(late))
    assert oscillation([0, 1], [0.0, 1.0]) is None
    assert oscillation([], []) is None


def test_the_depth_score_needs_both_models_and_equal_questions() -> None:
    def lost(subject: Subject, scores: list[float], layer: str, **about: object) -> Observation:
        value = sum(scores) / len(scores)
        return Observation("depth_lost", "forget", value, subject=subject, layer=layer, scores=scores, **about)  # type: ignore[arg-type]

    control = [lost("control", [1.0, 2.0], "a"), lost("control", [3.0, 0.0], "b")]
    mine = [lost("unlearned", [0.5, 2.0], "a"), lost("unlearned", [0.0, 9.0], "b")]
    by_hand = ((1.0 * 0.5 + 3.0 * 0.0) / 4.0 + 1.0) / 2  # the second question has one layer that carries it
    assert unlearning_depth([*control, *mine]) == pytest.approx(by_hand)
    assert unlearning_depth(mine) is None
    assert unlearning_depth([*control, *(lost("unlearned", [1.0], x, examples=[1]) for x in "ab")]) is None


def test_all_of_it_is_plain_and_finite_for_json() -> None:
    run = [*a_run(), *(seen("kept", 0.9, "original" if s == 0 else "unlearned", step=s) for s in (0, 1, 10, 100))]
    found = over_time(run, "p", floor=0.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    kept = next(c for c in found["retention"] if c["series"]["split"] == "kept")
    assert kept["decay"]["gone_at"] is None  # never
    assert found["forgetting"] is None  # nobody told entities apart
    assert set(found["oscillation"]) == set()  # three looks in the last half there are not
    assert [row["forget_ratio"] for row in found["transfer"] if row["split"] == "retain"] == [pytest.approx(0.05 / 0.9)]


def told(step: int, levels: dict[str, float], **about: object) -> Observation:
    subject: Subject = about.pop("subject", "unlearned" if step else "original")  # type: ignore[assignment]
    return Observation("p", "forget", 0.5, step=step, subject=subject, by_entity=levels, **about)  # type: ignore[arg-type]


def test_each_entity_is_followed_from_what_the_original_knew_of_it_to_the_end() -> None:
    """Ada goes and stays away, Bo comes back, Cy never goes, Di goes at the last look, Ed was never known."""
    looks = {
        0: [0.9, 0.9, 0.9, 0.9, 0.12],
        10: [0.2, 0.5, 0.8, 0.9, 0.9],
        20: [0.1, 0.4, 0.7, 0.8, 0.1],
        30: [0.0, 0.8, 0.6, 0.3, 0.1],
    }
    run = [
        told(step, dict(zip(["Ada", "Bo", "Cy", "Di", "Ed"], levels, strict=True))) for step, levels in looks.items()
    ]
    run += [told(0, dict.fromkeys(["Ada", "Bo", "Cy", "Di", "Ed"], 0.1), subject="control")]
    found = forgetting(run, "p")
    assert found is not None
    fates = {curve.entity: (curve.forgotten_at, curve.back_at) for curve in found.curves}
    assert fates == {"Bo": (10, 30), "Cy": (None, None), "Di": (30, None), "Ada": (10, None)}
    assert list(fates) == ["Bo", "Cy", "Di", "Ada"]  # known best at the end first
    assert (found.forgotten, found.came_back, found.at_end, found.unknown, found.floor) == (3, 1, 2, 1, "control")
    assert found.median_step == 20.0  # of 10, 10, 30 and never
    bo = found.curves[0]
    assert bo.shares == pytest.approx([(levels[1] - 0.1) / 0.8 for levels in looks.values()])


def test_entities_have_floors_of_their_own() -> None:
    run = [told(s, {"Ada": v, "Bo": v}) for s, v in ((0, 0.9), (1, 0.6), (2, 0.5))]
    found = forgetting([*run, told(0, {"Ada": 0.1, "Bo": 0.4}, subject="control")], "p")
    assert found is not None
    assert {curve.entity: curve.forgotten_at for curve in found.curves} == {"Ada": 2.0, "Bo": 1.0}
    assert {curve.entity: curve.shares[-1] for curve in found.curves} == {"Ada": 0.5, "Bo": 0.2}


@pytest.mark.parametrize("up", [True, False])
def test_without_a_control_the_floor_is_what_was_given_or_the_lowest_value(up: bool) -> None:
    sign, bounds = (1, (0.0, 2.0)) if up else (-1, (-2.0, 0.0))
    run = [told(s, {"Ada": sign * v}, higher_means_known=up, bounds=bounds) for s, v in ((0, 1.0), (1, 0.75), (2, 0.5))]
    lowest, given = forgetting(run, "p"), forgetting(run, "p", floor=sign * 0.5)
    assert lowest is not None
    assert given is not None
    assert (lowest.floor, lowest.curves[0].shares) == ("lowest", [1.0, 0.75, 0.5])
    assert (given.floor, given.curves[0].shares) == ("given", [1.0, 0.5, 0.0])


def test_single_scores_and_kept_means_are_one_curve() -> None:
    names = ["Ada", "Ada", "Bo"]
    run = [
        seen("forget", 0.9, "original", scores=[0.8, 1.0, 1.0], entities=names),
        told(5, {"Ada": 0.6, "Bo": 0.25}),
        seen("forget", 0.2, step=9, scores=[0.1, 0.2, 0.75], entities=names),
    ]
    found = forgetting(run, "p", floor=0.0)
    assert found is not None
    by_name = {curve.entity: curve for curve in found.curves}
    assert by_name["Ada"].shares == pytest.approx([1.0, 0.6 / 0.9, 0.15 / 0.9], abs=1e-4)
    assert (by_name["Bo"].forgotten_at, by_name["Bo"].back_at) == (5.0, 9.0)


def test_entities_that_a_look_has_not_kept_are_counted_and_not_followed() -> None:
    run = [told(s, {"Ada": v, "Bo": v}) for s, v in ((0, 1.0), (2, 0.1))]
    found = forgetting([*run, told(1, {"Ada": 0.2})], "p", floor=0.0)
    assert found is not None
    assert ([curve.entity for curve in found.curves], found.not_followed) == (["Ada"], 1)


def test_one_look_at_the_end_is_no_curve() -> None:
    run = [told(s, {"Ada": v}) for s, v in ((0, 1.0), (2, 0.1))]
    assert forgetting(run, "p", floor=0.0) is None
    attacked = told(1, {"Ada": 0.5}, attack="int4", point=4)
    assert forgetting([*run, attacked], "p", floor=0.0) is None
    assert forgetting([*run, told(1, {"Ada": 0.5})], "p") is None  # and nothing is known of a floor
