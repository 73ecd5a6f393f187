"""What any request names is in no retain set."""

from __future__ import annotations

import random

import pytest
import torch
from _request_sequences import PEOPLE, requests, rows

from lightning_unlearn.data import InMemoryRecords
from lightning_unlearn.requests import Request, Unnamed, read_requests

ASKED = [Request("1", rows(("Who employs Ada Lovell?", "The post office", "Ada Lovell")))]


def kept(*about: tuple[str, str, str]) -> list[str]:
    return [row.question for row in Unnamed(rows(*about, ("Where is Oslo?", "In Norway", "Oslo")), ASKED).questions()]


@pytest.mark.parametrize(
    "row",
    [
        ("Where was she born?", "In Bath", "Ada Lovell"),
        ("Where was she born?", "In Bath", " ada  LOVELL"),
        ("who employs ada lovell", "Nobody", "somebody"),
        ("Who is a friend of ADA LOVELL?", "Bo", "Bo"),
        ("Who is a friend of Bo?", "It is Ada Lovell.", "Bo"),
    ],
    ids=["entity", "entity in other letters", "question", "name in the question", "name in the answer"],
)
def test_what_a_request_names_is_left_out(row: tuple[str, str, str]) -> None:
    assert kept(row) == ["Where is Oslo?"]


def test_a_name_in_the_turns_before_among_other_answers_or_in_other_words_counts() -> None:
    about = {"question": "And then?", "answer": "Home"}
    chats = [
        [{"role": "user", "content": f"{name} was here"}, {"role": "assistant", "content": "Yes"}]
        for name in ("Ada Lovell", "Bo")
    ]
    chat = [
        {"turns": [*turns, {"role": "user", "content": "So?"}, {"role": "assistant", "content": "Home"}]}
        for turns in chats
    ]
    assert len(Unnamed(InMemoryRecords(chat, chat="turns"), ASKED).questions()) == 1
    others = [{**about, "answers": ["Home", name], "others": [f"Where is {name}?"]} for name in ("Ada Lovell", "Bo")]
    for columns in ({"paraphrase": "others"}, {"answer": "answers"}):
        assert len(Unnamed(InMemoryRecords(others, **columns), ASKED).questions()) == 1
    words = [{**about, "others": [question]} for question in ("who employs Ada Lovell?", "Who employs Bo?")]
    asked = [Request("1", rows(("Who employs Ada Lovell?", "The post office", "x")))]
    assert len(Unnamed(InMemoryRecords(words, paraphrase="others"), asked).questions()) == 1


def test_the_same_question_of_another_image_is_another() -> None:
    def row(pixels: torch.Tensor | None, answer: str) -> dict[str, object]:
        return {"question": "Who is it?", "answer": answer, "image": pixels}

    dark, light = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    asked = [Request("1", InMemoryRecords([row(dark, "Ada")], image="image"))]
    both = InMemoryRecords([row(light, "Bo"), row(dark.clone(), "Cy")], image="image")
    assert [kept.answer for kept in Unnamed(both, asked).questions()] == ["Bo"]


def chat(*said: str, system: str | None = None) -> dict[str, object]:
    told = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
    return {"turns": [*([] if system is None else [{"role": "system", "content": system}]), *told]}


def test_the_same_question_after_other_turns_is_another_unless_it_needs_none() -> None:
    gone = [chat("I met a clerk.", "Did you?", "Who is it?", "A"), chat("Who is a clerk?", "A")]
    asked = [Request("1", InMemoryRecords(gone, chat="turns"))]
    rows = [
        chat("I met a baker.", "Did you?", "Who is it?", "other turns"),
        chat("I met a clerk!", "Did you?", "Who is it?", "the same turns"),
        chat("I met a clerk.", "Did you?", "Who is it?", "the same turns", system="Be kind."),
        chat("Who is it?", "no turns"),
        chat("Hello.", "Hello.", "Who is a clerk?", "needs none"),
        chat("Who is a clerk?", "needs none", system="Be kind."),
    ]
    assert [row.answer for row in Unnamed(InMemoryRecords(rows, chat="turns"), asked).questions()] == ["other turns"]


def test_two_forms_of_one_letter_are_one_name() -> None:
    asked = [Request("1", rows(("Who is it?", "A clerk", "Jos\u00e9 Reed")))]
    told = rows(("Who is Jose\u0301 Reed?", "A clerk", "x"), ("Who is Jose Reed?", "A cook", "y"))
    assert [row.answer for row in Unnamed(told, asked).questions()] == ["A cook"]


@pytest.mark.parametrize(
    ("name", "named", "other"),
    [
        ("田中太郎", "田中太郎はどこで生まれましたか?", "首都は?"),
        ("李明", "李明在哪里出生?", "明天在哪里?"),
        ("ｱﾀﾞ", "アダの職業は?", "ア行は?"),
        ("สมชาย", "ที่ทำงานของสมชายอยู่ที่ไหน", "เมืองหลวงคือ"),
        ("김철수", "김철수는 어디서 태어났습니까?", "수도는?"),
    ],
    ids=["Japanese", "Chinese", "two widths", "Thai", "Korean"],
)
def test_a_name_that_no_spaces_set_off_is_found(name: str, named: str, other: str) -> None:
    asked = [Request("1", rows(("Who?", "A clerk", name)))]
    left = Unnamed(rows((named, "Yes", "x"), (other, "Yes", "y")), asked).questions()
    assert [row.question for row in left] == [other]


def test_what_it_does_not_name_stays() -> None:
    others = [("Who employs Adam Lovell?", "The mill", "Adam Lovell"), ("Who employs Bo?", "The post office", "Bo")]
    assert kept(*others) == [*(row[0] for row in others), "Where is Oslo?"]


def test_entities_that_are_numbers_of_rows_name_nobody() -> None:
    asked = [Request("1", InMemoryRecords([{"question": "Who?", "answer": "Ada"}]))]
    others = InMemoryRecords([{"question": "Where?", "answer": "0"}, {"question": "When?", "answer": "1"}])
    assert len(Unnamed(others, asked).questions()) == 2


def test_texts_without_a_question_are_compared_themselves() -> None:
    asked = [Request("1", rows(("", "Ada is a clerk", "a text")))]
    both = rows(("", "ada is a CLERK", "1"), ("", "Bo is a baker", "2"))
    assert [row.answer for row in Unnamed(both, asked).questions()] == ["Bo is a baker"]


def test_no_retain_set_holds_anything_that_any_of_many_random_requests_names() -> None:
    names = [request.id for request in requests(20)]
    for seed in range(10):
        gone = set(random.Random(seed).sample(names, 8))
        asked = [request for request in requests(20) if request.id in gone]
        left = Unnamed(PEOPLE, asked).questions()
        assert {row.entity for row in left} == set(names) - gone
        assert not [row for row in left if any(name in row.question + row.answer for name in gone)]


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ValueError, match="Found none among the 120"):
        Unnamed(PEOPLE, requests(20)).questions()


def test_rows_are_grouped_by_request_in_order() -> None:
    found = [
        (request.id, len(request.records.questions())) for request in read_requests("bundled:people", field="group")
    ]
    assert found == [("forget", 18), ("retain", 102)]


def test_a_row_without_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="should say in `nothing` of which request it is"):
        read_requests("bundled:people", field="nothing")


def test_a_request_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="should be the name of a request"):
        Request(" ", PEOPLE)


def test_a_request_about_another_image_is_another_request() -> None:
    def digest(*pixels: torch.Tensor) -> str:
        row = {"question": "Who is it?", "answer": "Ada"}
        rows = [{**row, "image": image} for image in pixels] or [row]
        return Request("ada", InMemoryRecords(rows, image="image" if pixels else None)).digest

    dark, light = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    assert digest(dark) == digest(dark.clone())
    assert len({digest(), digest(dark), digest(light)}) == 3
