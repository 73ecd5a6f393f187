"""The verdict of the first ten seconds: its word, its colour, and what it never says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from _studies import attacked, control, report_of, specificity, study

from lightning_unlearn.observation import Failure
from lightning_unlearn.report import RobustnessReport, to_model_card, to_page
from lightning_unlearn.report.render._verdict import verdict


def unmeasured(**options: Any) -> RobustnessReport:
    return report_of([o for o in study() if not o.attacked], **options)


# What was found, and what a reader is told. In a study 0.8 falls to 0.1; an attack brings it to `back`.
STUDIES: dict[str, tuple[Callable[[], RobustnessReport], str, str]] = {
    "much comes back": (lambda: report_of(study(back=(0.6,))), "back", "It came back"),
    "a little comes back": (lambda: report_of(study(back=(0.18,))), "partly", "Some came back"),
    "next to nothing comes back": (lambda: report_of(study(back=(0.11,))), "held", "It stayed forgotten"),
    "the control learns as much": (
        lambda: report_of([*study(back=(0.6,)), *control(0.6)]),
        "held",
        "It stayed forgotten",
    ),
    "the right answer is not ahead": (
        lambda: report_of([*study(back=(0.6,)), specificity(0.5, "relearn")]),
        "held",
        "It stayed forgotten",
    ),
    "nobody attacked": (unmeasured, "unknown", "Not attacked"),
    "only a deployment, and it holds": (
        lambda: report_of(study(back=(0.11,), family="quant")),
        "unknown",
        "Not attacked",
    ),
    "only a deployment, and it does not": (
        lambda: report_of(study(back=(0.6,), family="quant")),
        "back",
        "It came back",
    ),
    "a deployment brings back more than an adversary": (
        lambda: report_of([*study(back=(0.11,)), *attacked("int4", (0.6,), family="quant")]),
        "back",
        "It came back",
    ),
    "nothing was removed": (lambda: report_of(study(forget=(0.8, 0.8), back=(0.8,))), "unknown", "Nothing to judge"),
    "the rest is gone": (lambda: report_of(study(retain=(0.8, 0.2), left=0.2, back=(0.11,))), "back", "Broken"),
    "the run was ended": (lambda: report_of(study(), run={"interrupted": "Ctrl-C"}), "unknown", "Incomplete"),
    "an attack failed": (
        lambda: report_of(study(), failures=[Failure("E", "", attack="x", family="relearn", step=9)]),
        "unknown",
        "Incomplete",
    ),
    "a gate is missed": (lambda: report_of(study(), restored=False), "unknown", "No verdict"),
    "nothing at all": (lambda: report_of([]), "unknown", "Nothing to judge"),
}


@pytest.mark.parametrize(("made", "tone", "word"), STUDIES.values(), ids=STUDIES)
def test_one_word_and_one_colour(made: Callable[[], RobustnessReport], tone: str, word: str) -> None:
    found = verdict(made())
    assert (found.tone, found.word) == (tone, word)
    assert found.sentence.endswith(".")


def test_what_anybody_could_teach_anew_is_said_beside_the_good_news() -> None:
    assert "teach it anew" in verdict(report_of([*study(back=(0.6,)), *control(0.6)])).sentence
    assert "teach it anew" not in verdict(report_of(study(back=(0.11,)))).sentence


def test_page_and_model_card_begin_with_it() -> None:
    made = report_of(study(back=(0.6,)))
    html, card = to_page(made), to_model_card(made)
    assert 'class="answer back"' in html
    for text in (html, card):
        assert text.index("It came back") < text.index("The strongest attack of an adversary")


def test_no_colour_without_its_words_and_its_sign() -> None:
    signs = {verdict(made()).sign for made, *_ in STUDIES.values()}
    tones = {verdict(made()).tone for made, *_ in STUDIES.values()}
    assert len(signs) == len(tones) == 4
