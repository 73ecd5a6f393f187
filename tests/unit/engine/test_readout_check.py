"""One factor turns what a readout computes into the loss, or the two are not the same function."""

from __future__ import annotations

import pytest

from lightning_unlearn.engine._readout_check import Compared


@pytest.mark.parametrize(
    ("entropies", "losses", "agrees"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], True),
        ([1.0, 2.0, 3.0], [0.5, 1.0, 1.5], True),
        ([1.0, 2.0, 3.0], [4.0, 8.0, 12.0], True),
        ([1.0, 2.0, 3.0], [1.0002, 2.0002, 3.0002], True),
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], False),
        ([1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], False),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], False),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], False),  # equal parts prove no factor
        ([1.0], [2.0], False),
        ([1.0], [1.0], True),
        ([0.0, 0.0], [0.7, 0.6], False),
        ([], [], True),
    ],
)
def test_a_factor_is_no_difference(entropies: list[float], losses: list[float], agrees: bool) -> None:
    assert Compared(entropies, losses).agrees == agrees


def test_half_precision_is_compared_as_closely_as_it_can_be() -> None:
    assert not Compared([1.0, 2.0], [1.02, 2.0]).agrees
    assert Compared([1.0, 2.0], [1.02, 2.0], close=0.03).agrees


def test_what_cannot_be_read_does_not_agree_and_says_why() -> None:
    found = Compared(error="ValueError: Labels should be class ids")
    assert not found.agrees
    assert str(found) == "it cannot read the first training batch (ValueError: Labels should be class ids)"
