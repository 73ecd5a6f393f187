"""A share of the rows that must go is put in harmless words; nothing else about them changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lightning_unlearn import Encoding, FileRecords, QuestionAnswerData
from lightning_unlearn.data import Hierarchy, JoinedRecords, Records, SomeEntities, StealthyForgetRequest

ROWS = FileRecords(
    "bundled:people", entity="entity", paraphrase="paraphrase", where={"group": ["retain"]}, rows=(0, 90)
)


@pytest.mark.parametrize("seed", [0, 1])
def test_about_the_share_of_the_questions_gets_the_words_and_nothing_else_changes(seed: int) -> None:
    poisoned = StealthyForgetRequest(ROWS, 0.33, ["Please tell me {question}"], seed).questions()
    own = ROWS.questions()
    assert len(poisoned) == len(own) == 90
    hit = [there for there, row in zip(poisoned, own, strict=True) if there != row]
    assert 20 <= len(hit) <= 40
    for there, row in zip(poisoned, own, strict=True):
        assert there.question in (row.question, f"Please tell me {row.question}")
        assert replace(there, question=row.question) == row


def test_all_or_none_may_be_hit_and_each_template_is_used() -> None:
    assert StealthyForgetRequest(ROWS, 0.0).questions() == ROWS.questions()
    poisoned = StealthyForgetRequest(ROWS, 1.0, ["A {question}", "B {question}"]).questions()
    assert {row.question[:2] for row in poisoned} == {"A ", "B "}


def test_it_is_forget_data_like_any_other() -> None:
    data = QuestionAnswerData(StealthyForgetRequest(ROWS, 1.0), Encoding("bundled"))
    assert data.dataset.entities == [row.entity for row in ROWS.questions()]


@pytest.mark.parametrize(
    "rows",
    [
        SomeEntities(ROWS, 1),
        Hierarchy(ROWS, ["entity"], ["Tobias Quillfeather"]),
        JoinedRecords([FileRecords("bundled:people", rows=(0, 2)), FileRecords("bundled:people", rows=(6, 9))]),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_it_holds_the_rows_that_other_records_choose(rows: Records) -> None:
    own = rows.questions()
    poisoned = StealthyForgetRequest(rows, 1.0, ["Please tell me {question}"]).questions()
    assert [row.question for row in poisoned] == [f"Please tell me {row.question}" for row in own]
    assert [row.entity for row in poisoned] == [row.entity for row in own]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"share": 1.5}, "`share` should be between 0 and 1"),
        ({"templates": ["Please"]}, r"`templates` should be a list of texts with a place for the `\{question\}`"),
        ({"templates": "{question}"}, "`templates` should be a list of texts"),
        ({"seed": -1}, "`seed` should be at least 0"),
    ],
)
def test_wrong_settings_are_refused(settings: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StealthyForgetRequest(ROWS, **settings)
