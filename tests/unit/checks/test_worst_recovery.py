"""One number to monitor: what it is, what it is not, and that the report says the same."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_unlearn.checks._worst import LEAST_GAP, worst_recovery
from lightning_unlearn.observation import Observation
from lightning_unlearn.report import assess
from lightning_unlearn.report.analysis._gates import MIN_GAP

SPREAD = [0.04, -0.04, 0.02, -0.02]


def seen(value: float, subject: Any = "unlearned", attack: str = "none", point: float = 4, **about: Any) -> Observation:
    scores = [value + each for each in SPREAD]
    given = {"step": 9, "bounds": (0, 1), "scores": scores, "point": point if attack != "none" else 0, **about}
    return Observation("probability", "forget", value, subject=subject, attack=attack, **given)


MODELS = [seen(0.9, "original", step=0), seen(0.1)]
CONTROL = [seen(0.1, "control", step=0), seen(0.3, "control", "relearn", step=0)]


def test_it_is_the_largest_over_attacks_and_points() -> None:
    attacked = [seen(0.3, attack="int4"), seen(0.5, attack="relearn", point=1), seen(0.2, attack="relearn", point=2)]
    assert worst_recovery([*MODELS, *attacked], 9) == pytest.approx(0.5)
    assert worst_recovery([*MODELS, *attacked[::-1]], 9) == pytest.approx(0.5)


def test_what_the_attack_taught_the_control_is_taken_off_where_it_was_attacked() -> None:
    attacked = [seen(0.3, attack="int4"), seen(0.4, attack="relearn")]
    assert worst_recovery([*MODELS, attacked[1], *CONTROL], 9) == pytest.approx(0.125)
    assert worst_recovery([*MODELS, *attacked, *CONTROL], 9) == pytest.approx(0.25)  # int4 was not tried on the control
    assert worst_recovery([*MODELS, attacked[1], CONTROL[0]], 9) == pytest.approx(0.375)


def test_an_attackers_own_facts_count_for_nobody() -> None:
    known = seen(0.5, attack="half")
    half = known.at({0, 2})
    own = worst_recovery([*MODELS, half], 9)
    assert own == pytest.approx(assess([*MODELS, half]).recoveries[0].rho.value)
    assert own == pytest.approx((half.value - 0.13) / 0.8)


def test_a_loss_falls_where_more_is_known() -> None:
    def loss(value: float, subject: Any = "unlearned", attack: str = "none") -> Observation:
        return Observation("loss", "forget", value, subject=subject, attack=attack, higher_means_known=False)

    assert worst_recovery([loss(1.0, "original"), loss(5.0), loss(4.0, attack="int4")], 0) == pytest.approx(0.25)


def test_it_is_one_until_something_is_gone() -> None:
    assert worst_recovery([MODELS[0], seen(0.88), seen(0.87, attack="int4")], 9) == 1.0
    assert worst_recovery([MODELS[0], seen(0.95), seen(0.2, attack="int4")], 9) == 1.0
    assert worst_recovery([MODELS[0], seen(0.9, "original", "int4", step=0)], 0) == 1.0
    assert LEAST_GAP == MIN_GAP


def test_a_number_that_is_none_is_not_the_worst() -> None:
    broken = seen(math.nan, attack="int2", scores=[])
    assert math.isnan(worst_recovery([*MODELS, broken], 9) or 0.0)
    assert worst_recovery([*MODELS, broken, seen(0.3, attack="int4")], 9) == pytest.approx(0.25)


def test_without_an_attack_or_an_original_there_is_none() -> None:
    assert worst_recovery(MODELS, 9) is None
    assert worst_recovery([*MODELS, seen(0.3, attack="int4", step=3)], 9) is None
    assert worst_recovery([MODELS[1], seen(0.3, attack="int4")], 9) is None
