"""Chats are read into a question, its answer and what was said before, whoever writes them; what cannot be is named."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from lightning_unlearn.data import (
    Encoding,
    FileRecords,
    InMemoryRecords,
    PairedData,
    QuestionAnswer,
    QuestionAnswerData,
    Records,
    Refusals,
    Turn,
)
from lightning_unlearn.data.records._turns import ROLE_OF

SAID = [
    ("system", "Be brief."),
    ("user", "Who employs Ada?"),
    ("assistant", "The post office"),
    ("user", "And Bo?"),
    ("assistant", "A bakery"),
]
SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def openai(said: Any = SAID) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in said]


def sharegpt(said: Any = SAID) -> list[dict[str, Any]]:
    return [{"from": SHAREGPT[role], "value": content} for role, content in said]


def in_parts(said: Any = SAID) -> list[dict[str, Any]]:
    """Each content in two parts, beside the empty keys that tables add."""
    return [
        {"role": role, "content": [{"type": "text", "text": part, "image": None} for part in (text[:3], text[3:])]}
        for role, text in said
    ]


# Ways to write the same chat; a new one joins here.
SPELLINGS: dict[str, Any] = {
    "messages": lambda said: {"messages": openai(said)},
    "sharegpt": lambda said: {"conversations": sharegpt(said)},
    "conversation": lambda said: {"conversation": openai(said)},
    "openai under sharegpt's name": lambda said: {"conversations": openai(said)},
    "parts": lambda said: {"messages": in_parts(said)},
    "parts of strings": lambda said: {"messages": [{"role": r, "content": [c[:2], c[2:]]} for r, c in said]},
    "developer": lambda said: {"messages": openai([("developer" if r == "system" else r, c) for r, c in said])},
    "capitals": lambda said: {"messages": openai([(r.capitalize(), c) for r, c in said])},
    "array": lambda said: {"messages": np.array(openai(said), dtype=object)},
    "table": lambda said: {"messages": {"role": [r for r, _ in said], "content": [c for _, c in said]}},
    "both keys, one empty": lambda said: {
        "messages": [{**a, "from": None, "value": None} for a in openai(said)],
        "conversations": None,
    },
    "prompt and completion": lambda said: {"prompt": openai(said[:-1]), "completion": openai(said[-1:])},
    "prompt of turns, completion of text": lambda said: {"prompt": openai(said[:-1]), "completion": said[-1][1]},
    "system beside": lambda said: {"system": said[0][1], "conversations": sharegpt(said[1:])},
}


def rows(chat: Any, **options: Any) -> list[QuestionAnswer]:
    return InMemoryRecords([{"question": "?", "answer": "!"}, chat], rows=(1, None), **options).questions()


def one(said: Any, **options: Any) -> QuestionAnswer:
    (row,) = rows({"messages": openai(said)}, **options)
    return row


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_chat_gives_the_same_row(name: str) -> None:
    (row,) = rows(SPELLINGS[name](SAID))
    before = tuple(Turn(role, content) for role, content in SAID[:3])
    assert row == QuestionAnswer("And Bo?", "A bakery", "1", "row 1 of `InMemoryRecords`", before=before)


@pytest.mark.parametrize("name", [name for name in SPELLINGS if not name.startswith("prompt")])
def test_all_answers_are_one_row_each_with_what_was_said_before(name: str) -> None:
    first, second = rows(SPELLINGS[name](SAID), answers="all")
    assert replace(second, source="") == replace(rows(SPELLINGS[name](SAID))[0], source="")
    assert (first.question, first.answer, first.before) == (SAID[1][1], SAID[2][1], (Turn(*SAID[0]),))
    assert [row.source for row in (first, second)] == [f"turn {i} of row 1 of `InMemoryRecords`" for i in (2, 4)]


def test_each_row_is_a_beginning_of_its_chat() -> None:
    """Oracle: what was said before, question and answer are the first turns, and end where an assistant speaks."""
    said = [("system", "s"), *[(role, f"{role} {i}") for i in range(5) for role in ("user", "assistant")]]
    found = rows({"messages": openai(said)}, answers="all")
    told = [[*map(_pair, row.before), ("user", row.question), ("assistant", row.answer)] for row in found]
    assert told == [said[: i + 1] for i, (role, _) in enumerate(said) if role == "assistant"]
    assert all(len(b) - len(a) == 2 for a, b in pairwise(told))


def _pair(turn: Turn) -> tuple[str, str]:
    return turn.role, turn.content


@pytest.mark.parametrize(("answers", "found"), [([0], [0]), ([-1], [1]), ([1, 0], [1, 0]), ("last", [1])])
def test_answers_are_chosen_by_number(answers: Any, found: list[int]) -> None:
    both = [("The post office", "Who employs Ada?"), ("A bakery", "And Bo?")]
    assert [(row.answer, row.question) for row in rows({"messages": openai()}, answers=answers)] == [
        both[i] for i in found
    ]


def test_only_the_completion_may_be_an_answer() -> None:
    chat = {"prompt": openai(SAID[:4]), "completion": openai(SAID[4:])}
    assert [row.answer for row in rows(chat, answers="all")] == ["A bakery"]
    with pytest.raises(ValueError, match="`answers` should number answers that each chat has. Found 1, and 1 in row 1"):
        rows(chat, answers=[1])


def test_plain_rows_have_one_answer_whichever_is_asked_for() -> None:
    plain = [{"question": "Who?", "answer": "Ada"}]
    asked = [InMemoryRecords(plain, answers=answers).questions() for answers in ("last", "all", [0], [-1])]
    assert all(found == asked[0] for found in asked)


# Odd chats


@pytest.mark.parametrize(
    ("said", "question", "answer", "before"),
    [
        ([*SAID, ("user", "Thanks!")], "And Bo?", "A bakery", 3),
        ([("assistant", "Hello!"), *SAID[1:]], "And Bo?", "A bakery", 3),
        ([("user", "Hi."), ("user", "Who?"), ("assistant", "Ada")], "Who?", "Ada", 1),
        ([("user", ""), ("assistant", "Ada")], "", "Ada", 0),
        ([("system", ""), ("user", "Who?"), ("assistant", "Ada")], "Who?", "Ada", 1),
        ([("user", "a"), ("assistant", "b"), ("tool", "c"), ("user", "Who?"), ("assistant", "Ada")], "Who?", "Ada", 3),
    ],
)
def test_odd_chats_keep_every_turn_before_the_answer(said: Any, question: str, answer: str, before: int) -> None:
    row = one(said)
    assert (row.question, row.answer) == (question, answer)
    assert row.before == tuple(Turn(role, content) for role, content in said[:before])


def test_a_greeting_is_no_answer() -> None:
    (row,) = rows({"messages": openai([("assistant", "Hello!"), *SAID[1:3]])}, answers="all")
    assert (row.question, row.before) == ("Who employs Ada?", (Turn("assistant", "Hello!"),))


def test_calls_that_sharegpt_writes_as_text_are_read() -> None:
    said = [("human", "Time?"), ("function_call", '{"name": "clock"}'), ("observation", "9:00")]
    said += [("human", "So?"), ("gpt", "It is nine.")]
    (row,) = rows({"conversations": [{"from": who, "value": text} for who, text in said]})
    assert [turn.role for turn in row.before] == ["user", "assistant", "tool"]


def called(content: Any, **calls: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Time?"}, {"role": "assistant", "content": content, **calls}]


@pytest.mark.parametrize("empty", [None, [], {}], ids=repr)
def test_no_calls_are_no_reason_to_refuse(empty: Any) -> None:
    """Tables add these keys to every turn."""
    chat = called("Nine.", tool_calls=empty, function_call=None, name="x")
    assert [row.answer for row in rows({"messages": chat})] == ["Nine."]


@pytest.mark.parametrize(
    ("chat", "error", "message"),
    [
        ([], ValueError, "row 1 of .* should hold an answer: .* Found the turns of nobody"),
        (openai([("user", "Who?")]), ValueError, "row 1 of .* should hold an answer: .* Found the turns user. Leave"),
        (openai([("assistant", "Hello!")]), ValueError, "should hold an answer: an assistant's turn after a user's"),
        (openai([*SAID[1:3], ("assistant", "b")]), ValueError, "Turn 2 of row 1 .* follows one of `assistant`. Choose"),
        (
            openai([("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "d")]),
            ValueError,
            r"Turn 3 of row 1 .* should follow a user's turn. It follows one of `tool`. .*`answers=\[0\]`",
        ),
        (openai([("user", "Who?"), ("assistant", " ")]), ValueError, "Turn 1 of row 1 .* should not be empty"),
        (
            openai([("user", None), ("assistant", "a")]),
            TypeError,
            "content of turn 0 in `messages` of row 1 .* `NoneType`",
        ),
        (
            called(None, tool_calls=[{"id": 1}]),
            ValueError,
            "turn 1 in .* row 1 .* text alone. Found `tool_calls`: leave",
        ),
        (called("", tool_calls=[{"id": 1}]), ValueError, "text alone. Found `tool_calls`"),
        (called("One moment.", tool_calls=[{"id": 1}]), ValueError, "text alone. Found `tool_calls`"),
        (called(None, function_call={"name": "clock"}), ValueError, "text alone. Found `function_call`"),
        (
            openai([("narrator", "x")]),
            ValueError,
            "`role` of turn 0 in `messages` of row 1 .* one of system, .*'narrator'",
        ),
        (
            [{"human": "Who?"}],
            ValueError,
            r"turn 0 in .* should be an object with `role` and .* Found fields \['human'\]",
        ),
        (["Who?", "Ada"], ValueError, "turn 0 in .* should be an object with `role` and .* Found `str`"),
        ({"role": ["user", "user"], "content": ["Who?"]}, TypeError, "should be a list of turns. Found `dict`"),
        ({}, TypeError, "should be a list of turns. Found `dict`"),
        (np.int64(3), TypeError, "should be a list of turns. Found `int64`"),
        ("user: Who?", TypeError, "`messages` of row 1 .* should be a list of turns. Found `str`"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "Who?"}]}],
            ValueError,
            "content of turn 0 in .* parts with text alone. Found a part of type 'image_url'",
        ),
    ],
)
def test_what_is_no_chat_is_refused_by_row(chat: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rows({"messages": chat})


def test_every_role_is_one_of_four() -> None:
    assert set(ROLE_OF.values()) == {"system", "user", "assistant", "tool"}
    assert {role: ROLE_OF[spelling] for role, spelling in SHAREGPT.items()} == {role: role for role in SHAREGPT}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": "first"}, "`answers` should be 'last', 'all', or a list of numbers. Found `answers = 'first'`"),
        ({"answers": []}, "`answers` should be 'last', 'all', or a list of numbers"),
        (
            {"chat": "a", "question": "b"},
            "Either `chat` or `question` and `answer` should be named. Found `chat = 'a'`",
        ),
    ],
)
def test_bad_options_are_refused_at_once(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InMemoryRecords([], **options)


# What follows


def test_rows_are_cut_before_and_entities_shared_by_the_answers_of_a_chat() -> None:
    chats = [{"messages": openai(), "who": who} for who in ("Ann", None, None)]
    records = InMemoryRecords(chats, answers="all", entity="who", rows=(0, 2))
    assert [row.entity for row in records.questions()] == ["Ann", "Ann", "row 1", "row 1"]
    assert [record.index for record in records.selected] == [0, 0, 1, 1]


def test_every_answer_of_a_chat_gets_a_companion() -> None:
    records = InMemoryRecords([{"messages": openai()}] * 2, answers="all")
    dataset = PairedData(records, Refusals(), Encoding("bundled")).dataset
    assert [row.question for row in dataset.rows] == ["Who employs Ada?", "And Bo?"] * 2
    assert [(row.question, row.before) for row in dataset.companions] == [(r.question, r.before) for r in dataset.rows]


def test_a_file_of_chats_becomes_batches_from_yaml(tmp_path: Any) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": openai()}) for _ in range(3)))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(QuestionAnswerData, "data")
    for answers, size in (("last", 3), ("all", 6), ([0, 1], 6)):
        records = {"path": str(tmp_path / "a.jsonl"), "answers": answers}
        spec = {"records": {"class_path": "FileRecords", "init_args": records}, "encoding": {"tokenizer": "bundled"}}
        built = parser.instantiate(parser.parse_object({"data": spec})).data
        assert isinstance(built.records, FileRecords)
        assert isinstance(built.records, Records)
        assert len(built.dataset) == size
