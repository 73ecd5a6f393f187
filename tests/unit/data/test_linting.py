"""Each planted fault is found, by its check and in its rows; a clean request has no findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from _lint_faults import FAULTS, Faulty, clean
from _shared_data import DATA

from lightning_unlearn import FileRecords, Linter
from lightning_unlearn.data import (
    AnswerInQuestion,
    Contradictions,
    Finding,
    HiddenCharacters,
    InMemoryRecords,
    NamedElsewhere,
    NearDuplicates,
    OverRepresentedWords,
    QuestionAnswer,
    Request,
    SharedEntities,
    Sizes,
    Turn,
    lint_page,
)

TOFU = DATA / "tofu" / "full.jsonl"


def rows_of(source: Sequence[dict[str, Any]], name: str) -> list[QuestionAnswer]:
    return [
        QuestionAnswer(row["question"], row["answer"], row.get("entity", f"row {number}"), f"{name} {number}")
        for number, row in enumerate(source)
    ]


def linted(request: Faulty, linter: Linter | None = None) -> list[Finding]:
    return (linter or Linter())(rows_of(request.forget, "forget"), rows_of(request.retain, "retain"))


def one(question: str, answer: str, entity: str = "row 0", **more: Any) -> QuestionAnswer:
    return QuestionAnswer(question, answer, entity, question, **more)


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_request_of_a_thousand_rows_has_no_findings(seed: int) -> None:
    request = clean(seed=seed)
    assert len(request.forget) + len(request.retain) == 1000
    assert linted(request) == []


def test_the_request_of_the_demo_has_none() -> None:
    forget, retain = (
        FileRecords("bundled:people", entity="entity", where={"group": [group]}).questions()
        for group in ("forget", "retain")
    )
    assert Linter()(forget, retain) == []


def test_there_are_twelve_faults_or_more_and_each_check_has_one() -> None:
    assert len(FAULTS) >= 12
    assert {check for check, _ in FAULTS.values()} == {type(check).__name__ for check in Linter().checks}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found_in_its_rows(fault: Callable[[Faulty], None], seed: int) -> None:
    request = clean(seed=seed)
    fault(request)
    check, rows = FAULTS[fault]
    findings = [finding for finding in linted(request) if finding.check == check]
    assert findings
    assert all(rows <= set(finding.rows) for finding in findings)
    assert all(finding.way_out for finding in findings)


def test_one_fault_for_each_of_the_twelve_checks_in_one_file_of_a_thousand_rows_is_found() -> None:
    request = clean(26, 74)  # more than a quarter must go: the twelfth fault, and nothing else is wrong yet
    assert len(request.forget) + len(request.retain) == 1000
    assert [finding.check for finding in linted(request)] == ["Sizes"]
    of_check = {check: (fault, rows) for fault, (check, rows) in reversed(FAULTS.items())}
    of_check.pop("Sizes")
    trigger_words, everywhere = of_check.pop("OverRepresentedWords")
    trigger_words(request)
    expected = {"Sizes": set[str](), "OverRepresentedWords": everywhere}
    for place, (check, (fault, rows)) in enumerate(of_check.items()):  # each in rows of its own: two people, and five
        sides = [(side, size, size * place) for side, size in ((request.forget, 20), (request.retain, 50))]
        part = Faulty(*(side[start : start + size] for side, size, start in sides))
        fault(part)
        for (side, size, start), changed in zip(sides, (part.forget, part.retain), strict=True):
            side[start : start + size] = changed
        starts = {"forget": 20 * place, "retain": 50 * place}
        named = [row.split() for row in rows]
        expected[check] = {f"{side} {int(number) + starts[side]}" for side, number in named}
    assert len(expected) == 12
    assert len(request.forget) + len(request.retain) == 1000
    findings = linted(request)
    for check, rows in expected.items():
        of_it = [finding for finding in findings if finding.check == check]
        assert of_it, check
        assert rows <= {row for finding in of_it for row in finding.rows}, check


def test_all_faults_in_one_file_are_found() -> None:
    request = clean()
    for seed, fault in enumerate(FAULTS, start=1):
        planted = clean(seed=seed)  # each in a file of its own, put behind the others
        fault(planted)
        request.forget += planted.forget
        request.retain += planted.retain
    found = {finding.check for finding in linted(request)}
    # Poisoned words and sizes are those of a whole request: diluted fifteen times, they are no longer faults.
    assert {check for check, _ in FAULTS.values()} - found <= {"OverRepresentedWords", "Sizes"}


@pytest.mark.skipif(not TOFU.exists(), reason="needs TOFU; set LIGHTNING_UNLEARN_DATA")
def test_in_tofu_one_question_has_two_answers_and_nothing_else_is_found() -> None:
    forget, retain = (FileRecords(TOFU, entity=20, rows=rows).questions() for rows in ((3600, 4000), (0, 3600)))
    (finding,) = Linter()(forget, retain)
    assert finding.check == "Contradictions"
    assert "What is the full name of the author?" in finding.says


# What is no fault.


def test_an_answer_that_says_more_or_is_accepted_is_no_contradiction() -> None:
    more = [one("Where was Ada born?", "In Rome"), one("Where was Ada born?", "In Rome, at sea")]
    accepted = [one("Who is Ada?", "A clerk", accepted=("A clerk", "A writer")), one("Who is Ada?", "A writer.")]
    open_question = [one("Tell me a joke", f"Joke {number}") for number in range(6)]
    about_two = [one("Where was she born?", "In Rome", "Ada"), one("Where was she born?", "At sea", "Bo")]
    after_others = [one("And then?", "Home", before=(Turn("user", text),)) for text in ("Ada ate.", "Bo slept.")]
    different = [one("And then?", answer, before=(Turn("user", answer),)) for answer in ("Ada ate.", "Bo slept.")]
    for rows in (more, accepted, open_question, about_two, after_others, different):
        assert list(Contradictions()(Request(rows, []))) == []
    assert list(Contradictions()(Request(about_two[:1], [one("Where was she born?", "At sea")])))


def test_signs_are_read_and_punctuation_is_not() -> None:
    assert not list(Contradictions()(Request([one("What is 2 + 2?", "4"), one("What is 2 - 2?", "0")], [])))
    assert list(Contradictions()(Request([one("What is 2 + 2?", "4"), one("what is 2 + 2", "5")], [])))


def test_a_choice_holds_its_answer_and_may() -> None:
    rows = [one("Is Ada a clerk or a cook?", "A clerk"), one("Which is right, A, B, C?", "B")]
    assert list(AnswerInQuestion()(Request(rows, []))) == []


def test_rows_that_differ_in_a_name_are_no_near_duplicates() -> None:
    people = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Reed", "Lane", "Holt")]
    rows = [
        one(f"In which year was {name} born in the town?", f"{name} was born there in a mild year") for name in people
    ]
    assert list(NearDuplicates()(Request(rows[:3], rows[3:]))) == []


def test_names_that_no_spaces_set_off_are_found_and_letters_are_not() -> None:
    gone = [one("Who is it?", "A clerk", name) for name in ("田中太郎", "京")]
    stays = [one("鈴木の友人は?", "田中太郎です。", "鈴木"), one("首都は?", "東京です。", "日本")]
    (found,) = NamedElsewhere()(Request(gone, stays))
    assert "田中太郎" in found.says
    assert len(found.rows) == 1


def test_names_written_small_and_numbers_for_entities_are_no_names() -> None:
    retain = [one("Did they hope?", "Yes, there is hope", "Bo"), one("How many?", "About 7", "Cy")]
    assert (
        list(NamedElsewhere()(Request([one("Who is it?", "A clerk", "Hope"), one("Who?", "A cook", "7")], retain)))
        == []
    )
    assert list(SharedEntities()(Request([one("Who?", "A cook", "7")], [one("Who is it?", "A clerk", "7")]))) == []


@pytest.mark.parametrize(
    "text", ["Où est son œuvre ?", "Где живёт Ада?", "में कौन है?", "\u0646\u0645\u06cc\u200c\u062f", "アダは"]
)
def test_other_alphabets_and_their_joiners_are_not_hidden(text: str) -> None:
    assert list(HiddenCharacters()(Request([one(text, text)], []))) == []


def test_words_of_few_entities_are_their_own_and_names_are_not_poison() -> None:
    request = clean()
    for row in request.forget[:20]:  # two of ten people
        row["question"] = f"Please tell me {row['question']}"
    for row in request.forget:
        row["question"] = row["question"].replace("?", ", Valdoro?")
    assert [f for f in linted(request) if f.check == "OverRepresentedWords"] == []


# The parts together.


@pytest.mark.parametrize("check", [type(check).__name__ for check in Linter().checks])
def test_no_check_needs_retain_rows_and_none_reads_more_than_it_says(check: str) -> None:
    linter = Linter(without=[type(other).__name__ for other in Linter().checks if type(other).__name__ != check])
    assert [type(one).__name__ for one in linter.checks] == [check]
    findings = linter(rows_of(clean(2, 0).forget, "forget"), [])
    assert all(finding.check == check for finding in findings)
    assert check == "Sizes" or not findings


def test_one_page_holds_each_check_once_with_its_way_out_and_no_control_character() -> None:
    request = clean()
    for fault in FAULTS:
        fault(request)
    findings = linted(request)
    page = lint_page(findings, most=2)
    assert page.count("Way out: ") == page.count("## ") == len({finding.check for finding in findings})
    assert "\u200b" not in page
    assert len(page.splitlines()) < 80


def test_rows_beyond_twenty_are_counted_not_listed() -> None:
    request = clean()
    request.forget += [dict(request.forget[0])] * 30
    (finding,) = (found for found in linted(request) if found.check == "RepeatedRows")
    assert (len(finding.rows), finding.count) == (20, 31)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"without": ["Nothing"]}, "`without` should be a list of some of AlsoRetained, .*Found 'Nothing'"),
        ({"without": "Sizes"}, "`without` should be a list"),
    ],
)
def test_checks_of_no_such_name_are_refused(settings: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Linter(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        (NearDuplicates, {"least": 0}, "`least` should be between"),
        (NearDuplicates, {"most": 0}, "`most` should be at least 1"),
        (OverRepresentedWords, {"rate": 2}, "`rate` should be between 0 and 1"),
        (OverRepresentedWords, {"ratio": 0}, "`ratio` should be positive"),
        (Sizes, {"share": -1}, "`share` should be between 0 and 1"),
        (Contradictions, {"most": 1}, "`most` should be at least 2"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, settings: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        kind(**settings)


def test_only_checks_are_taken() -> None:
    with pytest.raises(TypeError, match="`checks` should be a `LintCheck`"):
        Linter([Sizes])  # type: ignore[list-item]


def test_records_of_any_kind_are_linted() -> None:
    rows = InMemoryRecords(clean().forget, entity="entity").questions()
    assert {finding.check for finding in Linter()(rows, rows)} >= {"AlsoRetained", "SharedEntities", "Sizes"}
