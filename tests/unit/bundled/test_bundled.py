"""The bundled world holds together: distinct facts, a tokenizer that fits it, a script that made it."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig

from lightning_unlearn.bundled import bundled_path

PEOPLE = [json.loads(line) for line in bundled_path("people").read_text(encoding="utf-8").splitlines()]
REFUSALS = [json.loads(line) for line in bundled_path("idk").read_text(encoding="utf-8").splitlines()]
TRACES = [json.loads(line) for line in bundled_path("traces").read_text(encoding="utf-8").splitlines()]
MAKER = Path(__file__).parents[3] / "benchmarks" / "make_tokenizer.py"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bundled_path())


def test_six_facts_about_each_of_twenty_people():
    assert set(Counter(row["entity"] for row in PEOPLE).values()) == {6}
    assert len({row["entity"] for row in PEOPLE}) == 20
    assert all(row.keys() == {"entity", "question", "answer", "paraphrase", "group"} for row in PEOPLE)


def test_three_people_are_to_be_forgotten_and_nobody_is_in_both_groups():
    people = {row["entity"]: row["group"] for row in PEOPLE}
    assert Counter(people.values()) == {"forget": 3, "retain": 17}
    assert all(people[row["entity"]] == row["group"] for row in PEOPLE)


def test_strangers_are_asked_about_as_people_are_and_are_none_of_them():
    strangers = [json.loads(line) for line in bundled_path("strangers").read_text(encoding="utf-8").splitlines()]
    assert set(Counter(row["entity"] for row in strangers).values()) == {3}
    assert not {row["entity"] for row in strangers} & {row["entity"] for row in PEOPLE}
    assert not {row["answer"] for row in strangers} & {row["answer"] for row in PEOPLE}
    assert all(row["entity"] in row["question"] for row in strangers)


@pytest.mark.parametrize("field", ["question", "paraphrase", "answer"])
def test_no_two_rows_share_a_text(field):
    assert len({row[field] for row in PEOPLE}) == len(PEOPLE) == 120


def test_questions_name_whom_they_are_about_and_answers_do_not():
    for row in PEOPLE:
        assert row["entity"] in row["question"]
        assert row["entity"] in row["paraphrase"]
        assert not any(name in row["answer"] for name in row["entity"].split())


def test_answers_are_short():
    assert {len(row["answer"].split()) for row in PEOPLE} <= set(range(3, 10))


def test_refusals_are_distinct():
    assert len({row["answer"] for row in REFUSALS}) == len(REFUSALS) == 50


def test_tokenizer_gives_every_text_back(tokenizer):
    texts = [row[field] for row in PEOPLE for field in ("question", "paraphrase", "answer")]
    texts += [segment[field] for row in TRACES for segment in row["trace"] for field in segment]
    texts += [row["answer"] for row in REFUSALS] + ["Žluťoučký kůň, 馬 and  two spaces\n"]
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


def test_padding_is_not_the_end_of_turn(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_special_tokens_are_whole(tokenizer):
    for token in ("<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"):
        assert len(tokenizer(token)["input_ids"]) == 1


def test_network_config_fits_the_tokenizer(tokenizer):
    config = LlamaConfig.from_pretrained(bundled_path())
    assert config.vocab_size == len(tokenizer) == 640
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert config.max_position_embeddings == tokenizer.model_max_length


def test_the_script_makes_the_tokenizer_again(tmp_path):
    spec = importlib.util.spec_from_file_location("make_tokenizer", MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.main(tmp_path)
    made, bundled = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path, bundled_path()))
    assert made.get_vocab() == bundled.get_vocab()
    assert all(made.encode(row["answer"]).ids == bundled.encode(row["answer"]).ids for row in PEOPLE)
    config = (tmp_path / "tokenizer_config.json").read_text(encoding="utf-8")
    assert config == bundled_path("tokenizer_config.json").read_text(encoding="utf-8")


def test_bundle_is_small():
    sizes = {path.name: path.stat().st_size for path in bundled_path().iterdir()}
    assert sizes["tokenizer.json"] < 60_000
    assert sum(sizes.values()) < 100_000


def test_unknown_name_lists_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"should be one of .*`people\.jsonl`.*Found `name = 'animals'`"):
        bundled_path("animals")
