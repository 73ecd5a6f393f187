"""The table of the study of robustness: seeds in which nothing was forgotten are said, and rank nothing."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

import pytest
from robustness_parts._method import passes
from robustness_parts._recovery import Seen, worst
from robustness_parts._shown import complete, draw, span, table


def run(recovery: float | None, kept: float = 1.0) -> dict[str, Any]:
    worst = {"recovery": recovery, "judge": "int4", "point": "4", "attacked": {"unlearned": 0.4, "control": 0.2}}
    return {
        "worst": {"20": worst, "100": worst},
        "kept": kept,
        "forget": 0.1,
        "disruption": 0.5,
        "rate": 1e-3,
        "steps": 8,
    }


def results(**methods: list[float | None]) -> dict[str, Any]:
    entries = {
        name: {"description": {}, "interval": {"100": [0.1, 0.2]}, "runs": [run(value) for value in values]}
        for name, values in methods.items()
    }
    return {"setting": "little", "numbers": {"kl": 1.0}, "skipped": {}, "methods": entries}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.25], "0.25"),
        ([0.25, 0.5], "0.38 (0.25 to 0.50)"),
        ([0.25, None, 0.5], "0.38 (0.25 to 0.50), 2 of 3 seeds"),
        ([None, 0.5], "0.50, 1 of 2 seeds"),
        ([None, None], "-"),
    ],
)
def test_a_cell_says_of_how_many_seeds_it_is(values: list[float | None], told: str) -> None:
    assert span([run(value) for value in values], lambda one: one["worst"]["20"]["recovery"], 2) == told


def test_what_forgot_nothing_comes_last_and_has_no_number(tmp_path: Path) -> None:
    found = results(nothing=[None, None], worse=[0.9, None], better=[0.2, 0.4])
    found["methods"]["nothing"]["interval"] = {"100": None}
    assert list(complete(found)) == ["better", "worse", "nothing"]
    last = table(found).strip().splitlines()[-1]
    assert last.startswith("| nothing | - | - | - |")
    draw(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size


@pytest.mark.parametrize(("unlearned", "expected"), [(0.5, 1.0), (0.85, 1.0), (0.87, None), (0.9, None), (0.91, None)])
def test_where_next_to_nothing_has_gone_nothing_can_come_back(unlearned: float, expected: float | None) -> None:
    """Less than a twentieth of what the control does not know; an original that was taught anew differs by less."""
    before = ([unlearned] * 3, [0.1] * 3)
    seen = Seen([0.9] * 3, before, {"20": [0.9] * 3}, {"20": [0.1] * 3}, slice(None), counts_steps=True)
    value, judge, point = worst({"relearn": seen}, 20)
    assert (judge, point) == ("relearn", "20")
    assert isnan(value) if expected is None else value == pytest.approx(expected)


RELEARN = {"full": {"Relearn": {"steps": 20, "mode": "full"}}}
QUANTIZE = {"int4": {"Quantize": {"bits": 4}}}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"unlearn": {"objective": "NPO"}}, 2.0),
        ({"unlearn": {"objective": "NPO", "under": QUANTIZE}}, 3.0),
        ({"unlearn": {"objective": "NPO", "under": QUANTIZE, "under_retain": True}}, 4.0),
        ({"unlearn": {"objective": "NPO", "under": RELEARN}}, 13.5),
        ({"unlearn": {"objective": "NPO", "under": {**RELEARN, **QUANTIZE}}}, 14.5),
        ({"unlearn": {"objective": "NPO", "under": RELEARN, "under_every": 2}}, 7.75),
        ({"unlearn": {"objective": "DPO", "readout": {"PairedReadout": {}}}}, 3.0),
        ({"unlearn": None, "callbacks": [{"ApplyEdit": {}}]}, 1.0),
        ({"best_two": {}, "passes": 9}, None),
    ],
)
def test_passes_of_a_step_are_counted_from_what_a_method_is(described: dict[str, Any], expected: float | None) -> None:
    assert passes(described) == expected
