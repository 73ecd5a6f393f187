"""The verdict of the first ten seconds: its word, its colour, and what it never says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from _studies import WHO, WIGGLE, attacked, control, observed, report_of, specificity, study

from lightning_unlearn.observation import Failure
from lightning_unlearn.report import RobustnessReport, to_model_card, to_page
from lightning_unlearn.report.analysis._held_out import halves
from lightning_unlearn.report.render._verdict import verdict
from lightning_unlearn.report.schema._words import recovery_words


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
    "a deployment failed": (
        lambda: report_of(study(back=(0.11,)), failures=[Failure("E", "", attack="int4", family="quant", step=9)]),
        "unknown",
        "Incomplete",
    ),
    "a deployment failed that had brought back much": (
        lambda: report_of(
            [*study(back=(0.11,)), *attacked("int4", (0.6,), family="quant")],
            failures=[Failure("E", "", attack="int4", family="quant", step=9, point=1)],
        ),
        "unknown",
        "Incomplete",
    ),
    "a deployment failed, and an adversary brings back much": (
        lambda: report_of(study(back=(0.6,)), failures=[Failure("E", "", attack="int4", family="quant", step=9)]),
        "back",
        "It came back",
    ),
    "a gate is missed": (lambda: report_of(study(), restored=False), "unknown", "No verdict"),
    "nothing at all": (lambda: report_of([]), "unknown", "Nothing to judge"),
}


@pytest.mark.parametrize(("made", "tone", "word"), STUDIES.values(), ids=STUDIES)
def test_one_word_and_one_colour(made: Callable[[], RobustnessReport], tone: str, word: str) -> None:
    found = verdict(made())
    assert (found.tone, found.word) == (tone, word)
    assert found.sentence.endswith(".")


def two_attacks(own: float, others: float) -> RobustnessReport:
    """One attack works on one half of the entities, another on the other half: each half chooses what works on it."""
    one, _ = halves(WHO, seed=0)
    observations = study(back=(0.1,))
    for name, half in (("first", one), ("second", set(WHO) - one)):
        how: dict[str, Any] = {"attack": name, "family": "relearn", "point": 1, "unit": "step"}
        scores = [
            0.1 + 0.7 * (own if entity in half else others) + wiggle for entity, wiggle in zip(WHO, WIGGLE, strict=True)
        ]
        forget = replace(observed(0.1, 9, **how), scores=scores, value=sum(scores) / len(scores))
        observations += [forget, observed(0.8, 9, "retain", **how)]
    return report_of(observations)


def test_the_word_follows_the_entities_that_did_not_choose_the_attack() -> None:
    """Each attack brings back all of what its half knew, 59 % in all, but 18 % of the half that did not choose it."""
    made = two_attacks(own=1.0, others=0.18)
    largest = max((r for r in made.recoveries), key=lambda r: r.rho.value)
    assert largest.rho.value == pytest.approx(0.59, abs=0.01)
    assert largest.rho.low is not None
    assert largest.rho.low > 0.2  # by itself it would read "It came back"
    found = verdict(made)
    assert (found.tone, found.word) == ("partly", "Some came back")
    assert "18.0 %" in found.sentence
    assert "(first) and 1 step of relearning (second), each judged by entities that did not choose it" in found.sentence
    assert "On all entities" in found.sentence
    assert "59 %" in found.sentence  # the number that does not lead is not hidden
    assert "the largest of several noisy numbers, which errs upwards" in found.sentence
    assert found.sentence in " ".join(to_page(made).replace("&#39;", "'").split())


def test_the_good_word_can_follow_them_too_and_says_what_was_larger() -> None:
    found = verdict(two_attacks(own=0.4, others=0.0))
    assert (found.tone, found.word) == ("held", "It stayed forgotten")
    assert found.sentence.startswith("The worst of all that was tried brought back 0")
    assert "On all entities" in found.sentence


def test_with_too_few_entities_to_hold_any_out_the_word_follows_the_largest_number() -> None:
    made = two_attacks(own=1.0, others=0.15)
    crowded = report_of([replace(o, entities=[f"author {n % 8}" for n in range(24)]) for o in made.observations])
    largest = max((r for r in crowded.recoveries), key=lambda r: r.rho.value)
    assert crowded.summary["held_out"] is None
    assert recovery_words(largest.rho) in verdict(crowded).sentence
    assert "judged by" not in verdict(crowded).sentence


def test_where_both_halves_choose_one_attack_it_is_the_same_number() -> None:
    found = verdict(report_of(study(back=(0.2, 0.6))))
    assert (found.tone, found.word) == ("back", "It came back")
    assert "by 2 steps of relearning." in found.sentence


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
