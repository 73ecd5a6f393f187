"""Rows of every usual form are read; fields that are named win over what is guessed, and nothing unclear is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_unlearn.data import Alternates, InMemoryRecords, QuestionAnswer, RewrittenTrace, Turn

NULL = float("nan")


def one(row: Any, **options: Any) -> QuestionAnswer:
    return InMemoryRecords([row], **options).questions()[0]


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"question": "Who?", "answer": "Ada"}, "Who?", "Ada"),
        ({"instruction": "Translate.", "input": "Hund", "output": "dog"}, "Translate.\n\nHund", "dog"),
        ({"instruction": "Say hi.", "input": "", "output": "hi"}, "Say hi.", "hi"),
        ({"instruction": "Say hi.", "input": None, "output": "hi", "text": "Below is ..."}, "Say hi.", "hi"),
        ({"instruction": "Say hi.", "output": "hi", "messages": NULL}, "Say hi.", "hi"),
        ({"prompt": "Who?", "completion": " Ada"}, "Who?", " Ada"),
        ({"question": "Who?", "answer": "Ada", "messages": [{"role": "user", "content": "x"}]}, "Who?", "Ada"),
        ({"question": "Who?", "answer": "Ada", "prompt": "a", "completion": "b"}, "Who?", "Ada"),
        ({"question": None, "answer": None, "prompt": "Who?", "completion": "Ada"}, "Who?", "Ada"),
    ],
)
def test_the_form_of_a_row_is_found_by_its_fields(row: Any, question: str, answer: str) -> None:
    read = one(row)
    assert (read.question, read.answer, read.before, read.accepted) == (question, answer, (), ())


def test_a_system_prompt_beside_an_instruction_is_said_before_it() -> None:
    row = {"instruction": "Say hi.", "output": "hi", "system": "Be brief."}
    assert one(row).before == (Turn("system", "Be brief."),)


def test_paraphrases_come_along_from_the_field_that_is_named() -> None:
    given = {"question": "Who?", "answer": "Ada", "other": ["Who then?", " ", "Who then?"], "more": None}
    assert one(given).paraphrases == ()
    assert one(given, paraphrase="other").paraphrases == ("Who then?",)
    assert one({**given, "other": "Who now?"}, paraphrase="other").paraphrases == ("Who now?",)
    assert one(given, paraphrase="more").paraphrases == ()


def test_paraphrases_that_are_none_are_refused_by_row() -> None:
    with pytest.raises(ValueError, match="row 0 .* should have the field `others`. It has `question`"):
        one({"question": "Who?", "answer": "Ada"}, paraphrase="others")
    with pytest.raises(TypeError, match="`other` of row 0 .* should be a string or a list of strings. Found 3"):
        one({"question": "Who?", "answer": "Ada", "other": 3}, paraphrase="other")


# Answers that are right


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": ["Ada", "Ada L.", "Ada"]},
        {"answers": {"text": ["Ada", "Ada L."], "answer_start": [3, 3]}},
        {"answers": [{"text": "Ada", "answer_start": 3}, {"text": "Ada L.", "answer_start": 3}]},
        {"answers": {"value": "Ada", "aliases": ["Ada L."], "normalized_value": "ada"}},
        {"answer": ["Ada", "Ada L.", " "]},
        {"answer": np.array(["Ada", "Ada L."])},
        {"answer": {"value": "Ada", "aliases": ["Ada", "Ada L."]}},
    ],
    ids=str,
)
def test_the_first_of_several_right_answers_is_the_answer_and_all_are_accepted(answers: Any) -> None:
    row = one({"question": "Who?", **answers})
    assert (row.answer, row.accepted) == ("Ada", ("Ada", "Ada L."))


def test_a_string_of_numpy_is_one_answer() -> None:
    row = one({"question": np.str_("Who?"), "answer": np.str_("Ada")})
    assert (row.answer, row.accepted) == ("Ada", ())


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ([], ValueError, "`answers` of row 0 .* should not be empty"),
        ({"text": [], "answer_start": []}, ValueError, "`answers` of row 0 .* should not be empty"),
        (["", " "], ValueError, "`answers` of row 0 .* should not be empty"),
        (["Ada", 3], TypeError, "`answers` of row 0 .* should be a string. Found `list`. Of several answers"),
        ({"start": 3}, TypeError, "`answers` of row 0 .* should be a string. Found `dict`"),
    ],
)
def test_no_right_answer_is_refused_by_row(answers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        one({"question": "Who?", "answers": answers})


def test_what_is_said_instead_is_not_accepted() -> None:
    records = InMemoryRecords([{"question": "Who?", "answer": ["Ada", "A."], "alternate": "Bo"}])
    (record,) = records.selected
    (other,) = Alternates().candidates(record, records.parse(record))
    assert (other.answer, other.accepted) == ("Bo", ())


def test_a_rewritten_trace_keeps_what_was_said_before() -> None:
    trace = [{"text": "She was "}, {"text": "born at sea", "replacement": "born"}]
    turns = [("system", "Think."), ("user", "Where?"), ("assistant", "At sea")]
    records = InMemoryRecords([{"messages": [{"role": r, "content": c} for r, c in turns], "trace": trace}])
    (record,) = records.selected
    row = records.parse(record)
    both = [RewrittenTrace().forget(record, row), *RewrittenTrace().candidates(record, row)]
    assert [part.before for part in both] == [(Turn("system", "Think."),)] * 2


# Names


@pytest.mark.parametrize(
    ("options", "question", "answer"),
    [
        ({"question": "q"}, "named?", "Ada"),
        ({"answer": "a"}, "Who?", "named"),
        ({"question": "q", "answer": "a"}, "named?", "named"),
        ({"question": "instruction", "answer": "output"}, "Translate.", "dog"),
        ({"chat": "talk"}, "Hi?", "Hi!"),
    ],
)
def test_named_fields_win_over_every_guess(options: Any, question: str, answer: str) -> None:
    row = {"question": "Who?", "answer": "Ada", "q": "named?", "a": "named", "messages": [], "answers": ["x"]}
    row |= {"instruction": "Translate.", "input": "Hund", "output": "dog"}
    row |= {"talk": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi!"}]}
    read = one(row, **options)
    assert (read.question, read.answer) == (question, answer)


@pytest.mark.parametrize("options", [{"question": "instruction"}, {"answer": "reply"}, {"chat": "messages"}])
def test_a_named_field_that_is_missing_is_never_replaced_by_a_guess(options: dict[str, str]) -> None:
    row = {"prompt": "Who?", "completion": "Ada", "answers": ["Ada"]}
    with pytest.raises(
        ValueError, match=r"row 0 of .* should have the field `\w+`. It has `prompt`, `completion`, `answers`"
    ):
        one(row, **options)


def test_a_named_question_may_have_several_answers() -> None:
    assert one({"q": "Who?", "answers": ["Ada", "A."]}, question="q").accepted == ("Ada", "A.")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"messages": []}, "`instruction` with `output` and `messages`"),
        ({"prompt": "a", "completion": "b"}, "`instruction` with `output` and `prompt` with `completion`"),
        ({"question": "a", "answers": ["b"]}, "`question` with `answers` and `instruction` with `output`"),
    ],
)
def test_a_row_of_two_forms_is_refused_with_both(more: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"row 0 of .* should have one form.* Found {found}. Give `question` and"):
        one({"instruction": "a", "output": "b", **more})


def test_a_row_of_no_form_is_refused_with_its_fields_and_the_way_out() -> None:
    with pytest.raises(
        ValueError, match="should have the field `answer`. It has `q`. Name .* `question` and `answer`, or"
    ):
        one({"q": "Who?"})
    with pytest.raises(ValueError, match="It has `text`. .* For raw text use `TextData`"):
        one({"text": "Once upon a time"})
    with pytest.raises(ValueError, match="It has `field 0`, .*`field 19`, 10 more. Name"):
        one({f"field {i}": i for i in range(30)})
