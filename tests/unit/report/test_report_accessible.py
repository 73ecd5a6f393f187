"""The page can be read by everybody: in the order of its headings, aloud, without colours, by keyboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from _studies import attacked, observed, report_of, study
from accessibility import VIEWS, View, about, browser, examine, prepared

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


class Said(HTMLParser):
    """The words that a reader of paper should find."""

    UNSEEN = ("style", "title", "caption", "svg")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.skipped: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        # `details.screen` is of what the paper shows anyway.
        if tag in self.UNSEEN or self.skipped or ("class", "screen") in attrs:
            self.skipped.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self.skipped and self.skipped.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.words += [] if self.skipped else data.split()


def as_pdf(html: str, chromium: str, folder: Path) -> Path:
    """The page, printed."""
    page, pdf = folder / "page.html", folder / "page.pdf"
    page.write_text(html, encoding="utf-8")
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    command += ["--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=180, check=True)
    return pdf


def pages_of(pdf: Path) -> Iterator[tuple[float, float, list[tuple[float, ...]]]]:
    """Width, height and the boxes of the words of each page."""
    told = subprocess.run(["pdftotext", "-bbox", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    space = "{http://www.w3.org/1999/xhtml}"
    for page in ElementTree.fromstring(told).iter(f"{space}page"):
        boxes = [
            tuple(float(word.attrib[side]) for side in ("xMin", "yMin", "xMax", "yMax"))
            for word in page.iter(f"{space}word")
        ]
        yield float(page.attrib["width"]), float(page.attrib["height"]), boxes


def plainly(text: str) -> str:
    """Without ligatures, capitals and spaces: a style sheet and a line's end may change these."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


@pytest.mark.slow
def test_paper_has_whole_pages_and_every_word(html: str, tmp_path: Path) -> None:
    chromium = browser()
    if chromium is None or shutil.which("pdftotext") is None:
        pytest.skip("needs a Chromium to print with, and pdftotext to read what was printed")
    pdf = as_pdf(html, chromium, tmp_path)
    pages = list(pages_of(pdf))
    assert len({(width, height) for width, height, _ in pages}) == 1
    margin = 13 / 25.4 * 72  # points; the style sheet asks for 14 mm, and a letter may lean out a little
    for width, height, boxes in pages:
        assert boxes  # no empty page
        assert all(left >= margin and right <= width - margin for left, _, right, _ in boxes)
        assert all(top >= margin and bottom <= height - margin for _, top, _, bottom in boxes)
    text = subprocess.run(["pdftotext", "-raw", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    printed = plainly(text)
    words = Said(html).words
    assert len(words) > 500
    assert [word for word in words if plainly(word) not in printed] == []


CUT_WORDS = """
const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text; (text = texts.nextNode());) {
  if (!text.parentElement.closest('td,th')) continue;
  for (const word of text.data.matchAll(WORD)) {
    const range = document.createRange();
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
    if (lines.size > 1) found.push(word[0]);
  }
}
const wide = document.documentElement.scrollWidth > innerWidth;
document.body.setAttribute('data-cut', JSON.stringify({words: found, wide: wide}));
"""
PAPER = View(688, VIEWS["print"].rewrites)
"""As wide as A4 within its margins."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "word"),
    [
        (PAPER, "/[^ \\n]+/g"),
        (VIEWS["wide"], "/[^ \\n]+/g"),
        # A phone breaks names, too, behind their own hyphens.
        (VIEWS["phone"], "/[^ \\n-]+/g"),
    ],
    ids=["paper", "wide", "phone"],
)
def test_no_column_of_a_table_is_narrower_than_its_words(view: View, word: str, tmp_path: Path) -> None:
    chromium = browser()
    if chromium is None:
        pytest.skip("needs a Chromium to lay the page out")
    names = ("relearn_lr3e-05", "long_lr0.0003", "unlearned_again")
    levels = [level for name in names for level in attacked(name, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))]
    inside = [
        replace(level, metric="probe", layer=f"model.layers.{number}.self_attn.q_proj.weight")
        for number in range(3)
        for level in levels
    ]
    page = tmp_path / "page.html"
    page.write_text(
        prepared(to_page(report_of([*study(), *levels, *inside])), CUT_WORDS.replace("WORD", word), view),
        encoding="utf-8",
    )
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={view.width},900"]
    command += [f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    found = re.search(r'data-cut="([^"]*)"', shown)
    assert found is not None
    assert json.loads(unescape(found[1])) == {"words": [], "wide": False}


def test_axe_finds_no_error(html: str) -> None:
    """`LIGHTNING_UNLEARN_AXE=.../axe.min.js` turns it on; `benchmarks/results/accessibility.json` has the last result."""
    source, chromium = os.environ.get("LIGHTNING_UNLEARN_AXE", ""), browser()
    if not source or chromium is None:
        pytest.skip("needs a Chromium, and the path of axe-core's axe.min.js in LIGHTNING_UNLEARN_AXE")
    for view in VIEWS.values():
        assert examine(html, Path(source).read_text(encoding="utf-8"), view, chromium).violations == []


def test_the_result_that_is_committed_has_no_violation() -> None:
    results = json.loads((Path(__file__).parents[3] / "benchmarks/results/accessibility.json").read_text())
    views = results.get("views", results)  # the committed run is older than what is said of page and commit
    assert set(views) == {"wide", "phone", "dark", "dark phone", "print"}
    assert all(view["violations"] == [] and view["passes"] > 20 for view in views.values())


def test_what_is_said_of_the_page_names_it() -> None:
    first, second = (about(Path("runs/report.html"), f"<title>A &amp; B</title>{body}") for body in ("one", "two"))
    assert (first["page"], first["title"]) == ("report.html", "A & B")
    assert first["sha256"] != second["sha256"]
