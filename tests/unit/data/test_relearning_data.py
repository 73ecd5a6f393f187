"""What an attacker may train on: relevant by degrees, of the same shape, in other words, with wrong answers, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _shared_data import DATA
from torch.testing import assert_close

from lightning_unlearn import Encoding, FileRecords, InMemoryRecords, QuestionAnswerData, TextData, TextWindows
from lightning_unlearn.data import (
    Levenshtein,
    RandomText,
    Records,
    Related,
    Rephrased,
    SameShape,
    SwappedAnswers,
    TfIdf,
    answer_overlap,
)
from lightning_unlearn.functional.overlap import words_of


def people(group: str = "forget") -> FileRecords:
    return FileRecords("bundled:people", entity="entity", where={"group": [group]})


SOURCES: dict[str, Callable[[], Records]] = {
    "random": lambda: RandomText(10),
    "related": lambda: Related(people("retain"), people()),
    "rephrased": lambda: Rephrased(people()),
    "same_shape": lambda: SameShape(people("retain"), people()),
    "swapped": lambda: SwappedAnswers(people()),
}
every_source = pytest.mark.parametrize("name", SOURCES)


@every_source
def test_each_is_a_source_of_questions_and_answers_the_same_each_time(name: str) -> None:
    data = QuestionAnswerData(SOURCES[name](), Encoding("bundled"))
    assert len(data.dataset) >= 5
    assert list(data.dataset.rows) == SOURCES[name]().questions()
    assert all(row.question and row.answer and row.entity for row in data.dataset.rows)


@every_source
def test_no_random_state_moves(name: str) -> None:
    before = torch.get_rng_state()
    SOURCES[name]().questions()
    assert torch.equal(torch.get_rng_state(), before)


def told(records: Records) -> dict[str, float]:
    """How much of the answers that must go stands in these rows."""
    rows = people().questions()
    return answer_overlap(
        [words_of(row.answer) for row in rows],
        [words_of(f"{row.question} {row.answer}") for row in rows],
        [words_of(f"{row.question} {row.answer}") for row in records.questions()],
    )


def test_what_each_tells_of_the_answers_is_measured() -> None:
    overlaps = {name: told(make()) for name, make in SOURCES.items()} | {"forget": told(people())}
    assert overlaps["forget"]["data_answers_contained"] == overlaps["rephrased"]["data_answers_contained"] == 1
    assert overlaps["swapped"]["data_answers_contained"] == 1  # all answers are there, each behind another question
    assert overlaps["related"]["data_answers_contained"] == overlaps["random"]["data_answers_contained"] == 0
    assert overlaps["forget"]["data_similarity"] == 1 > overlaps["rephrased"]["data_similarity"]
    nearest = [overlaps[name]["data_similarity"] for name in ("rephrased", "same_shape", "random")]
    assert nearest == sorted(nearest, reverse=True)
    assert overlaps["random"]["data_ngram8_overlap"] == 0 < overlaps["forget"]["data_ngram8_overlap"] == 1


def test_levels_are_equally_large_disjoint_and_of_falling_relevance() -> None:
    parts = [Related(people("retain"), people(), level, Levenshtein()) for level in ("high", "middle", "low")]
    rows = [[record.index for record in part.selected] for part in parts]
    assert len({len(part) for part in rows}) == 1
    assert len({index for part in rows for index in part}) == 3 * len(rows[0])
    wanted = [f"{row.question} {row.answer}" for row in people().questions()]
    texts = [[f"{row.question} {row.answer}" for row in part.questions()] for part in parts]
    near = [Levenshtein()(part, wanted).max(1).values for part in texts]
    assert near[0].min() >= near[1].max() >= near[1].min() >= near[2].max()


@pytest.mark.parametrize("level", ["high", "middle", "low"])
def test_fewer_are_taken_from_where_their_level_is_purest(level: Any) -> None:
    whole = [record.index for record in Related(people("retain"), people(), level).selected]
    few = [record.index for record in Related(people("retain"), people(), level, most=3).selected]
    spare = len(whole) - 3
    first = {"high": 0, "middle": spare // 2, "low": spare}[level]
    assert few == whole[first : first + 3]


def test_a_text_is_related_too() -> None:
    texts = [{"text": f"Maribel Okonvane and the harbour, part {i}."} for i in range(3)]
    texts += [{"text": f"It rains in the hills, day {i}."} for i in range(3)]
    records = Related(InMemoryRecords(texts), people(), "high")
    data = TextData(records, TextWindows("bundled", max_length=32))
    assert all("Maribel" in text for text in data.dataset.texts)


def test_an_answer_that_no_spaces_set_off_is_found() -> None:
    target = InMemoryRecords([{"question": "田中さんの職業は?", "answer": "医師"}])
    pool = InMemoryRecords(
        [{"text": text} for text in ("田中さんは医師です。", "首都は東京です。", "雨が降る。", "海が見える。")]
    )
    levels: tuple[Any, ...] = ("high", "middle", "low")
    found = [record.text("text") for level in levels for record in Related(pool, target, level).selected]
    assert "田中さんは医師です。" not in found
    assert len(found) == 3


def by_hand(text: str, target: str, documents: list[str]) -> float:
    """The cosine of scikit-learn's default weights, word by word."""
    everything = [words_of(one) for one in documents]

    def weight(word: str, words: tuple[str, ...]) -> float:
        having = sum(word in other for other in everything)
        return words.count(word) * (math.log((1 + len(everything)) / (1 + having)) + 1)

    a, b = words_of(text), words_of(target)
    product = sum(weight(word, a) * weight(word, b) for word in set(a) & set(b))
    lengths = [math.sqrt(sum(weight(word, words) ** 2 for word in set(words))) for words in (a, b)]
    return product / math.prod(lengths)


def test_tfidf_is_the_cosine_of_its_weights() -> None:
    texts, targets = ["a mill by a river", "the post office", "the river"], ["the mill", "a bank by the river"]
    expected = [[by_hand(text, target, [*texts, *targets]) for target in targets] for text in texts]
    assert_close(TfIdf()(texts, targets), torch.tensor(expected))
    assert TfIdf()(["a b"], ["a b"]).item() == pytest.approx(1)


def test_same_shapes_are_about_others_and_the_nearest_there_are() -> None:
    asked, found = people().questions(), SameShape(people("retain"), people(), each=2).questions()
    assert not {row.entity for row in asked} & {row.entity for row in found}
    assert len(found) == len({row.question for row in found})
    pool = people("retain").questions()
    alike = Levenshtein()([row.question for row in pool], [asked[0].question]).squeeze(1)
    assert found[0].question == pool[int(alike.argmax())].question


def test_nobody_keeps_his_own_answers_and_none_is_lost() -> None:
    rows, swapped = people().questions(), SwappedAnswers(people(), seed=3).questions()
    assert [row.question for row in rows] == [row.question for row in swapped]
    assert sorted(row.answer for row in rows) == sorted(row.answer for row in swapped)
    own = {(row.entity, row.answer) for row in rows}
    kept = [row for row in swapped if (row.entity, row.answer) in own]
    assert len(kept) < len(rows) / 4  # people may share an answer


def test_phrases_keep_answers_and_braces() -> None:
    rows = InMemoryRecords([{"question": "What is {x}?", "answer": "a"}, {"question": "And y?", "answer": "b"}])
    found = Rephrased(rows, ["Say: {question}", "{question} Say."]).questions()
    assert [(row.question, row.answer) for row in found] == [("Say: What is {x}?", "a"), ("And y? Say.", "b")]


def test_grade_school_maths_is_read_from_its_file() -> None:
    """Text of another domain needs no part of its own."""
    path = DATA / "gsm8k" / "train_1000.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    rows = FileRecords(str(path), rows=(0, 20)).questions()
    assert len(rows) == 20
    assert told(FileRecords(str(path), rows=(0, 20)))["data_ngram8_overlap"] == 0


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: RandomText(0), "`count` should be at least 1"),
        (lambda: Rephrased(people(), ["tell me"]), 'should be texts with "{question}" in them'),
        (lambda: Rephrased(people(), []), 'should be texts with "{question}" in them'),
        (lambda: Related(people(), people(), "nearest"), "`level` should be one of"),  # type: ignore[arg-type]
        (lambda: Related(people(), people()).selected, "three rows or more without an answer.* Found 0 of"),
        (lambda: SameShape(people(), people()).selected, "should find rows in .* Found none of"),
        (
            lambda: SwappedAnswers(InMemoryRecords([{"question": "q", "answer": "a"}])).questions(),
            "should find two entities or more",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(act: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        act()
