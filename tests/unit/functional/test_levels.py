"""Values are sorted by how many thresholds they reach, whoever chose the thresholds."""

from __future__ import annotations

import pytest
import torch

from lightning_unlearn.functional.levels import check_ascending, even_thresholds, levels, place_among

VALUES = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_level_is_the_number_of_thresholds_that_are_reached() -> None:
    thresholds = [0.2, float(VALUES[3]), 0.99]
    expected = [sum(value >= threshold for threshold in thresholds) for value in VALUES.tolist()]
    assert levels(VALUES, sorted(thresholds)).tolist() == expected
    assert levels(VALUES, []).tolist() == [0] * 60


@pytest.mark.parametrize("count", [2, 3, 5])
def test_even_thresholds_give_each_level_equally_many(count: int) -> None:
    thresholds = even_thresholds(VALUES, count)
    assert torch.bincount(levels(VALUES, thresholds)).tolist() == [60 // count] * count
    check_ascending("thresholds", thresholds, count - 1)


def test_places_are_spread_evenly_and_do_not_depend_on_the_scale() -> None:
    values = VALUES.tolist()
    places = [place_among(value, values[:n] + values[n + 1 :]) for n, value in enumerate(values)]
    assert sorted(places) == pytest.approx([(n + 0.5) / 60 for n in range(60)])
    assert place_among(values[0], values[1:]) == place_among(7 * values[0], [7 * value for value in values[1:]])
    assert place_among(1.0, [1.0, 1.0]) == 0.5


@pytest.mark.parametrize("given", [[0.5], [0.2, 0.1], [0.1, 0.1], [0.1, float("nan")]])
def test_what_does_not_ascend_is_refused(given: list[float]) -> None:
    with pytest.raises(ValueError, match="`thresholds` should be"):
        check_ascending("thresholds", given, 2)
