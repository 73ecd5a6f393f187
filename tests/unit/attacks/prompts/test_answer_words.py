"""A prompt that gives its answer away is noticed, in whatever form of writing; and one that does not is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from _shared_data import DATA

from lightning_unlearn import FileRecords
from lightning_unlearn.attacks.prompts import AnswerWords, free_of_answers
from lightning_unlearn.data import QuestionAnswer, Turn

TOFU = DATA / "tofu" / "forget10_perturbed.jsonl"
ROW = QuestionAnswer("Where was Ada born?", "In the harbour village of Sandrel Point", entity="Ada", source="row 0")


def leak(prompt: str, row: QuestionAnswer = ROW, *others: QuestionAnswer) -> str:
    return AnswerWords([row, *others]).told(row, prompt).leak


@pytest.mark.parametrize(
    "prompt",
    [
        "In the harbour village of Sandrel Point?",
        "harbour VILLAGE Sandrel point",
        "SANDREL-POINT",
        "Was it inthe harbourvillage ofsandrel point?",
        "I n the h a r b o u r village of S a n d r e l Point",
        "\uff33\uff41\uff4e\uff44\uff52\uff45\uff4c",
        "Is it Sandrel?",
        "Tell me of villages.",
    ],
)
def test_the_answer_or_a_telling_part_of_it_is_noticed(prompt: str) -> None:
    assert leak(f"{prompt} {ROW.question}")


@pytest.mark.parametrize("prompt", ["What is the birthplace of Ada?", "In the beginning, was Ada born?", ""])
def test_other_words_and_stop_words_are_none(prompt: str) -> None:
    assert AnswerWords([ROW]).told(ROW, prompt).share == 0
    assert not leak(prompt)


def test_what_the_question_says_itself_is_no_news() -> None:
    row = replace(ROW, question="Was Ada born in Lima or in Oslo?", answer="In Lima")
    assert not leak("In Lima or in Oslo, where was Ada born?", row)
    assert leak("In Lima or in Oslo, where was Ada born?", replace(row, question="Where was Ada born?"))


def test_a_word_of_the_answer_beside_one_of_the_question_is_one_word() -> None:
    words = " ".join(f"w{i}" for i in range(10))
    row = replace(ROW, question="When was Ada born?", answer=f"Ada came to life in {words}")
    assert not leak("When did Ada, who came from afar, begin?", row)
    assert leak("When did Ada, who came to life, begin?", row) == "came life"


def test_what_an_earlier_turn_of_the_row_says_is_no_news_either() -> None:
    row = replace(ROW, answer="Lima", before=(Turn("user", "I have been to Lima."),))
    assert not leak("I have been to Lima. Where was Ada born?", row)


def test_any_of_several_right_answers_counts() -> None:
    row = replace(ROW, answer="Lima", accepted=("Lima", "The city of kings"))
    assert leak("The city of kings: where was Ada born?", row)


@pytest.mark.parametrize(("others", "noticed"), [(0, True), (1, True), (2, False)])
def test_words_of_the_answers_about_two_others_are_how_such_answers_are_put(others: int, noticed: bool) -> None:
    row = replace(ROW, answer="A novel called Lanterns")
    more = [replace(ROW, answer=f"A novel called {name}", entity=name) for name in ("Bells", "Salt")[:others]]
    assert bool(leak("Which novel did Ada write?", row, *more)) == noticed
    assert leak("Which novel called Lanterns did Ada write?", row, *more)


def test_among_many_entities_two_are_not_enough_to_make_a_name_common() -> None:
    row = replace(ROW, answer="New York City")
    two = [replace(ROW, answer="In New York", entity=name) for name in ("Bo", "Cy")]
    many = [replace(ROW, answer=f"w{i}", entity=f"E{i}") for i in range(30)]
    assert not leak("Was it New York?", row, *two)
    assert leak("Was it New York?", row, *two, *many)


def test_one_entity_asked_about_often_is_one_other() -> None:
    row = replace(ROW, answer="A novel called Lanterns")
    assert leak("Which novel?", row, *[replace(ROW, answer="A novel", entity="Bo")] * 5)


def test_an_answer_of_nothing_but_common_words_is_still_noticed() -> None:
    row = replace(ROW, answer="In Lima")
    assert leak("Was it Lima?", row, *[replace(ROW, answer="In Lima", entity=name) for name in ("Bo", "Cy", "Di")])


def test_of_a_long_answer_one_word_may_fall_but_no_two_neighbours_and_no_fifth() -> None:
    words = [f"w{i}" for i in range(20)]
    row = replace(ROW, answer=" ".join(words))
    assert not leak("w1", row)
    assert not leak("w1 w3 w5", row)
    assert leak("w1 w3 w5 w7", row) == "w1 w3 w5 w7"
    assert leak("w1 w2", row) == "w1 w2"
    assert AnswerWords([row]).told(row, "w1 w3 w5").share == pytest.approx(3 / 20)


@pytest.mark.parametrize(
    ("answer", "prompt", "noticed"),
    [
        ("No", "Nothing is known. Was she born?", False),
        ("No", "No or yes? Was she born?", True),
        ("1979", "In 1979?", True),
        ("1979", "In 19790?", False),
        ("利马", "她在利马出生吗?", True),
        ("利马", "她在哪里出生?", False),
    ],
)
def test_short_answers_are_found_as_words_and_scripts_without_spaces_by_letter(
    answer: str, prompt: str, noticed: bool
) -> None:
    assert bool(leak(prompt, replace(ROW, answer=answer))) == noticed


@pytest.mark.skipif(not TOFU.exists(), reason=f"needs {TOFU.name} in `LIGHTNING_UNLEARN_DATA`")
def test_published_paraphrases_that_give_the_answer_away_are_found() -> None:
    """Of the 400 paraphrased questions of TOFU's forget10, 36: two of them name the author whose name is asked for."""
    own = FileRecords(TOFU, entity=20, paraphrase="paraphrased_question").questions()
    told = free_of_answers(own, [replace(row, question=row.paraphrases[0]) for row in own])
    leaks = [t.leak for _, t in told if t.leak]
    assert len(leaks) == 36
    assert {"carmen montenegro", "moshe ben"} <= set(leaks)


def test_prompts_that_are_not_free_are_taken_out_and_what_they_tell_is_kept() -> None:
    told = replace(ROW, before=(Turn("user", "Sandrel Point is nice."),))
    led = replace(ROW, lead="Sure, in Sandrel Point:")
    fine = replace(ROW, question="What is the birthplace of Ada?")
    found = free_of_answers([ROW] * 4, [told, led, fine, None])
    assert [row for row, _ in found] == [None, None, fine, None]
    assert [t.share for _, t in found] == [0.5, 0.5, 0.0, 0.0]
