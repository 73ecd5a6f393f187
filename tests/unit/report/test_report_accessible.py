"""The page can be read by everybody: in the order of its headings, aloud, without colours, by keyboard."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from _studies import observed, report_of
from accessibility import VIEWS, browser, examine

from lightning_unlearn.observation import Change, Cost, Failure, Observation
from lightning_unlearn.report import recorded, to_page


class Outline(HTMLParser):
    """Headings, cells of tables, drawings and what can be focused."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.cells: list[tuple[str, dict[str, str | None], str]] = []
        self.drawings: list[dict[str, str]] = []
        self.wide: list[dict[str, str | None]] = []
        self.captions = self.tables = 0
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        known = dict(attrs)
        self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag == "th":
            self.cells.append((tag, known, "thead" if "thead" in self.open else "tbody"))
        if tag == "svg":
            self.drawings.append({"role": known.get("role", ""), "title": "", "desc": ""})
        if known.get("class") == "scroll":
            self.wide.append(known)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("title", "desc") and "svg" in self.open:
            self.drawings[-1][self.open[-1]] += data


@pytest.fixture(scope="module")
def html(observations: list[Observation], context: dict[str, Any]) -> str:
    inside = [observed(0.5, 120, layer=f"layers.{number}", metric="probe") for number in range(3)]
    said = [observed(0.9, 120, metric="rouge", texts=["It said so."] * 24)]
    made = report_of([*observations, *inside, *said], failures=[Failure("E", "", audit="Lens", step=120)], **context)
    changes = [Change("layers.0.weight", 4, True, True, 0.5, 0.1)]
    return to_page(recorded(made, changes=changes, costs=[Cost("relearn", "unlearned", seconds=2.0, losses=20)]))


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    return Outline(html)


def test_headings_come_in_their_order(outline: Outline) -> None:
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert 3 in outline.headings
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)


def test_every_head_of_a_table_says_what_it_is_the_head_of(outline: Outline) -> None:
    heads = {
        part: {known.get("scope") for _, known, where in outline.cells if where == part} for part in ("thead", "tbody")
    }
    assert heads == {"thead": {"col"}, "tbody": {"row"}}


def test_every_table_has_a_caption_and_can_be_scrolled_by_keyboard(outline: Outline) -> None:
    assert outline.tables == outline.captions == len(outline.wide) > 5
    assert all(known["tabindex"] == "0" for known in outline.wide)


def test_every_plot_has_a_name_and_its_numbers_in_words(outline: Outline) -> None:
    assert len(outline.drawings) > 5
    for drawing in outline.drawings:
        assert drawing["role"] == "img"
        assert drawing["title"]
        assert any(character.isdigit() for character in drawing["desc"])


def test_the_language_is_known_and_zooming_is_allowed(html: str) -> None:
    assert '<html lang="en">' in html
    assert "user-scalable" not in html
    assert "maximum-scale" not in html


def test_axe_finds_no_error(html: str) -> None:
    """`LIGHTNING_UNLEARN_AXE=.../axe.min.js` turns it on; `benchmarks/results/accessibility.json` has the last result."""
    source, chromium = os.environ.get("LIGHTNING_UNLEARN_AXE", ""), browser()
    if not source or chromium is None:
        pytest.skip("needs a Chromium, and the path of axe-core's axe.min.js in LIGHTNING_UNLEARN_AXE")
    for view in VIEWS.values():
        assert examine(html, Path(source).read_text(encoding="utf-8"), view, chromium).violations == []


def test_the_result_that_is_committed_has_no_violation() -> None:
    results = json.loads((Path(__file__).parents[3] / "benchmarks/results/accessibility.json").read_text())
    assert set(results) == {"wide", "phone", "dark", "dark phone", "print"}
    assert all(view["violations"] == [] and view["passes"] > 20 for view in results.values())
