"""Words of any script; on English those that ROUGE has always had."""

from __future__ import annotations

import re

import pytest

from lightning_unlearn.functional.words import contains, words

ENGLISH = ["She's 31, isn't she?", "a_b-c", "  U.S.A.\n1,000\tm² ".replace("²", ""), "", "--", "The OLD Port"]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_words_are_those_of_rouge(text: str) -> None:
    assert words(text) == re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Łódź, Übergröße", ["łódź", "übergrösse"]),
        ("Москва 1931", ["москва", "1931"]),
        ("東京タワー", [*"東京タワー"]),
        ("서울 시", ["서울", "시"]),
    ],
)
def test_other_scripts_have_words_too(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("said", "answer", "there"),
    [
        ("It was OSLO!", "Oslo", True),
        ("in Oslofjord", "Oslo", False),
        ("the village of Sandrel-Point", "Sandrel Point", True),
        ("Point of Sandrel", "Sandrel Point", False),
        ("彼女は東京に住む", "東京", True),
        ("x = ++", "++", True),
        ("x", " ", False),
        ("", "Oslo", False),
    ],
)
def test_an_answer_is_contained_as_words_in_a_row(said: str, answer: str, there: bool) -> None:
    assert contains(said, answer) is there
