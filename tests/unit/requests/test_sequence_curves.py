"""What a ledger says of a whole sequence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_unlearn.requests import Entry, Ledger, sequence_curves, write_sequence_report

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


def test_where_it_should_be_is_told_beside_where_it_is() -> None:
    control = {"a": 0.2, "b": 0.0, "c": 0.1, "retain": 0.6}
    (look,) = sequence_curves(ENTRIES, {}, control)["looks"]
    assert look["of_all"] == pytest.approx(0.3)
    assert look["forget_target"] == pytest.approx(0.6 / 3 + 0.1 * 2 / 3)
    assert look["retain_target"] == pytest.approx(0.9 / 3 + 0.6 * 2 / 3)
    (unknown,) = sequence_curves(ENTRIES, {}, {"a": 0.2, "b": None, "c": 0.1, "retain": 0.6})["looks"]
    assert (unknown["forget_target"], unknown["forget_degree"]) == (None, None)
    assert unknown["retain_target"] is not None


def test_curves_begin_where_all_was_known() -> None:
    control = {"a": 0.2, "b": 0.0, "c": 0.1, "retain": 0.6}
    found = sequence_curves(ENTRIES, {}, control)["beginning"]
    assert (found["requests"], found["asked"], found["to_come"], found["retain"]) == (0, None, pytest.approx(0.6), 0.9)
    assert (found["forget_target"], found["retain_target"]) == (pytest.approx(0.6), 0.9)
    assert "of_all" not in sequence_curves(ENTRIES, {})["beginning"]
    assert sequence_curves(ENTRIES[:2], {})["beginning"] is None


def told(folder: Path, entries: Any, control: Any = None) -> dict[str, str]:
    """The report of a ledger, by the ending of its files."""
    ledger = Ledger(folder / "ledger.jsonl")
    for each in entries:
        ledger.append(replace(each, previous=ledger.head))
    page = write_sequence_report(folder, control)
    assert (folder / "sequence.png").read_bytes().startswith(b"\x89PNG")
    assert page == folder / "sequence.html"
    return {ending: page.with_suffix(f".{ending}").read_text() for ending in ("md", "html", "json")}


def test_the_report_of_an_empty_sequence_and_of_one(tmp_path: Path) -> None:
    assert "0 requests are in effect" in told(tmp_path, [])["md"]
    report = told(tmp_path, ENTRIES)
    assert "2 requests are in effect: 1 passed all gates, 1 did not. 1 was undone." in report["md"]
    assert "| b | 0.600 | 0.600 | 0.000 | 0% | 90% | 3 | - | `a` came back |" in report["md"]
    assert "The most of an earlier request that came back: 50%" in report["md"]
    assert Ledger(tmp_path / "ledger.jsonl").head in report["html"]


def test_the_page_needs_nothing_but_itself_and_obeys_no_name(tmp_path: Path) -> None:
    named = replace(ENTRIES[1], request="<b>a</b>", failed=["`<i>` came back", "and more"])
    page = told(tmp_path, [ENTRIES[0], named])["html"]
    assert "<b>a</b>" not in page
    assert "<i>" not in page
    assert page.count('class="fail"') == 1
    assert "came back<br>and more" in page
    assert not re.search(r"<script|<img|<link|src=|url\((?!#)|https?:(?!//www.w3.org)", page)


def test_a_control_adds_the_way_to_it(tmp_path: Path) -> None:
    titles = []
    for folder, control in (("without", None), ("with", {"a": 0.2, "b": 0.0, "c": 0.1, "retain": 0.6})):
        (tmp_path / folder).mkdir()
        page = told(tmp_path / folder, ENTRIES, control)["html"]
        titles.append(re.findall("<figcaption>(.*?)</figcaption>", page))
        assert page.count("<svg") == len(titles[-1])
    assert titles[1] == [*titles[0][:2], "The way to a model that never knew", *titles[0][2:]]


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([], "Nothing was carried out"),
        (ENTRIES, "1 of 2 requests failed a gate"),
        (ENTRIES[:2], "All requests passed all gates"),
        ([*ENTRIES[:2], replace(ENTRIES[1], number=2, request="b")], "and nothing was looked at again"),
    ],
)
def test_its_first_words_are_what_became_of_the_requests(entries: Any, word: str, tmp_path: Path) -> None:
    page = told(tmp_path, entries)["html"]
    assert word in re.findall('<p class="word">(.*?)</p>', page)[0]
