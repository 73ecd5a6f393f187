"""What a ledger says of a whole sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.requests import Entry, Ledger, sequence_curves, write_sequence_report
from lightning_unlearn.requests._ledger import BEGINNING

START = {"a": 0.8, "b": 0.6, "c": 0.4}


def entry(number: int, kind: str, request: str, figures: Any = None, **more: Any) -> Entry:
    return Entry(number, kind, request, "", "", "", "", figures or {}, **more)  # type: ignore[arg-type]


def figures(start: float, after: float, retain: float, audited: Any = None) -> dict[str, Any]:
    looked = {} if audited is None else {"audited": audited, "start": START}
    return {
        "forget": {"start": start, "before": start, "after": after},
        "retain": {"start": 0.9, "after": retain},
        "fit": {"steps": 3},
        **looked,
    }


ENTRIES = [
    entry(0, "start", ""),
    entry(1, "request", "a", figures(0.8, 0.2, 0.9)),
    entry(2, "request", "x", figures(0.5, 0.5, 0.1), failed=["`x` was not forgotten"]),
    entry(3, "undo", "a"),
    entry(4, "request", "b", figures(0.6, 0.0, 0.81, {"a": 0.6, "b": 0.0, "c": 0.3}), failed=["`a` came back"]),
]


def test_curves_are_of_what_is_in_effect() -> None:
    found = sequence_curves(ENTRIES, {1: 2.0, 2: 9.0, 4: 3.0})
    assert [row["request"] for row in found["requests"]] == ["a", "b"]
    assert [row["left"] for row in found["requests"]] == pytest.approx([0.25, 0.0])
    assert [row["retained"] for row in found["requests"]] == pytest.approx([1.0, 0.9])
    assert (found["seconds"], found["undone"], found["failed"]) == (5.0, 1, 1)


def test_what_came_back_is_a_share_of_what_was_known() -> None:
    (look,) = sequence_curves(ENTRIES, {})["looks"]
    assert look["came_back"] == {"a": pytest.approx((0.6 - 0.2) / 0.8)}
    assert (look["asked"], look["to_come"], look["retain"]) == (pytest.approx(0.3), 0.3, 0.81)


def test_degrees_compare_with_the_line_to_a_model_that_never_knew() -> None:
    control = {"a": 0.2, "b": 0.0, "c": 0.1, "retain": 0.6}
    (look,) = sequence_curves(ENTRIES, {}, control)["looks"]
    wanted = (1 - 2 / 3) * 0.6 + 2 / 3 * 0.1  # two of three requests
    assert look["forget_degree"] == pytest.approx(1 - abs(0.3 / wanted - 1))
    assert look["retain_utility"] == pytest.approx(1 - abs(0.81 / 0.7 - 1))


def test_a_cost_that_is_not_known_makes_no_sum() -> None:
    assert sequence_curves(ENTRIES, {1: 2.0})["seconds"] is None


def test_the_report_of_an_empty_sequence_and_of_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert "0 requests are in effect" in write_sequence_report(tmp_path).read_text()
    previous = BEGINNING
    for each in ENTRIES:
        values = {**vars(each), "previous": previous}
        ledger.append(Entry(**values))
        previous = ledger.head
    text = write_sequence_report(tmp_path).read_text()
    assert "2 requests are in effect, 1 passed all gates, 1 failed one; 1 were undone." in text
    assert "| b | 0.600 | 0.600 | 0.000 | 0% | 90% | 3 | - | `a` came back |" in text
    assert "The most of an earlier request that came back: 50%" in text
    assert (tmp_path / "sequence.png").read_bytes().startswith(b"\x89PNG")
