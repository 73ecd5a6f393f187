"""ROUGE-L and fluency of answers in words."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from math import log
from typing import Any

import pytest
import torch.distributed as dist
from _ranks import run_ranks

from lightning_unlearn.functional.fluency import ngram_entropy
from lightning_unlearn.functional.rouge import longest_common, rouge_l, stemmed_words
from lightning_unlearn.functional.stemming import stem
from lightning_unlearn.metrics import AnswerText, Fluency, RougeLF, RougeLRecall

METRICS: list[type[AnswerText]] = [Fluency, RougeLF, RougeLRecall]
metrics = pytest.mark.parametrize("kind", METRICS)
SAID = ["She lives in the port of Oslo", "", "the the the the", "In Oslo, in Oslo, in Oslo"]
RIGHT = ["He lived in Oslo's old port.", "Oslo", "the sea", "in Oslo"]


def subsequence_by_definition(some: str, others: str) -> int:
    """The longest choice of letters of one text that is found, in order, in the other."""

    def contained(letters: str) -> bool:
        rest = iter(others)
        return all(letter in rest for letter in letters)

    chosen = ("".join(letter for letter, taken in zip(some, pick, strict=True) if taken) for pick in picks(len(some)))
    return max(len(letters) for letters in chosen if contained(letters))


@cache
def picks(n: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=n))


def test_the_longest_common_subsequence_is_that_of_the_definition() -> None:
    texts = ["".join(letters) for n in range(5) for letters in product("ab", repeat=n)] + ["abcab", "cabba", "bcbac"]
    for some, others in product(texts, repeat=2):
        assert longest_common(some, others) == subsequence_by_definition(some, others), (some, others)


def test_rouge_is_recall_precision_and_their_harmonic_mean() -> None:
    found = rouge_l(["a", "b", "c", "d"], ["b", "x", "d"])
    assert found == (2 / 3, 2 / 4, pytest.approx(1 / ((3 / 2 + 4 / 2) / 2)))
    assert rouge_l(["a"], ["b"]) == rouge_l([], ["b"]) == rouge_l(["a"], []) == (0, 0, 0)
    assert rouge_l(["a", "b"], ["a", "b"]) == (1, 1, 1)


# From Porter's paper and his list of words; those marked by NLTK differ from the paper's.
STEMS = {
    **{"caresses": "caress", "ponies": "poni", "cats": "cat", "feed": "feed", "agreed": "agre", "plastered": "plaster"},
    **{"motoring": "motor", "sing": "sing", "conflated": "conflat", "troubled": "troubl", "sized": "size"},
    **{"hopping": "hop", "tanned": "tan", "falling": "fall", "hissing": "hiss", "fizzed": "fizz", "failing": "fail"},
    **{"filing": "file", "happy": "happi", "relational": "relat", "conditional": "condit", "valenci": "valenc"},
    **{"digitizer": "digit", "radicalli": "radic", "differentli": "differ", "vileli": "vile", "analogousli": "analog"},
    **{"vietnamization": "vietnam", "predication": "predic", "operator": "oper", "feudalism": "feudal"},
    **{"decisiveness": "decis", "hopefulness": "hope", "callousness": "callous", "formaliti": "formal"},
    **{"sensitiviti": "sensit", "sensibiliti": "sensibl", "triplicate": "triplic", "formative": "form"},
    **{"electrical": "electr", "goodness": "good", "revival": "reviv", "allowance": "allow", "inference": "infer"},
    **{"airliner": "airlin", "adjustable": "adjust", "irritant": "irrit", "replacement": "replac"},
    **{
        "adjustment": "adjust",
        "dependent": "depend",
        "adoption": "adopt",
        "communism": "commun",
        "effective": "effect",
    },
    **{"bowdlerize": "bowdler", "probate": "probat", "rate": "rate", "cease": "ceas", "controll": "control"},
    **{"roll": "roll", "archaeology": "archaeolog", "geology": "geolog", "possibly": "possibl"},
    **{"dies": "die", "flies": "fli", "died": "die", "tried": "tri", "skies": "sky", "dying": "die", "enjoy": "enjoy"},
    **{"generically": "gener", "hopefully": "hope", "as": "as"},
}


@pytest.mark.parametrize("word", STEMS)
def test_stems(word: str) -> None:
    assert stem(word) == STEMS[word]


def test_short_words_are_no_stems_and_other_scripts_count() -> None:
    assert stemmed_words("Was does Émile's 東京?") == ["was", "doe", "émile", "s", "東", "京"]
    assert stemmed_words("Was does Émile's 東京?", "open-unlearning") == ["was", "doe", "mile", "s"]


def entropy_by_definition(words: list[str]) -> float:
    shares = []
    for n in (2, 3):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams).values()
        entropy = log(len(grams)) - sum(c * log(c) for c in counts) / len(grams)
        shares.append(entropy / log(len(grams)))
    return (shares[0] + 2 * shares[1]) / 3


@pytest.mark.parametrize("text", ["a b c d e f", "a b a b a b a", "a b c a b d a b", "a a a a b"])
def test_fluency_is_the_entropy_of_the_definition(text: str) -> None:
    assert ngram_entropy(text.split()) == pytest.approx(entropy_by_definition(text.split()), abs=1e-12)


def test_fluency_of_silence_loops_and_a_few_words() -> None:
    assert ngram_entropy([]) == 0
    assert ngram_entropy(["so"] * 12) == 0
    assert ngram_entropy(["so"]) == ngram_entropy(["so", "be", "it"]) == 1
    looping, varied = ("in Oslo " * 8).split(), [f"word{n}" for n in range(16)]
    assert 0 < ngram_entropy(looping) < 0.3
    assert ngram_entropy(varied) == 1


@metrics
def test_scores_of_answers_lie_within_the_bounds_and_add_up_over_batches(kind: type[AnswerText]) -> None:
    whole, parts = kind(), kind()
    whole.update(SAID, RIGHT)
    for said, right in zip(SAID, RIGHT, strict=True):
        parts.update([said], [right])
    low, high = kind.bounds
    assert len(whole.scores()) == len(SAID)
    assert ((low <= whole.scores()) & (whole.scores() <= high)).all()
    assert whole.scores().tolist() == parts.scores().tolist()
    assert whole.compute().item() == pytest.approx(sum(whole.scores().tolist()) / len(SAID))
    with pytest.raises(ValueError, match=r"a right answer for each one\. Found 2 and 1"):
        whole.update(["a", "b"], ["a"])


@metrics
def test_no_answers_have_no_mean(kind: type[AnswerText]) -> None:
    metric = kind()
    metric.update([], [])
    assert metric.compute().isnan()


@metrics
def test_the_right_answer_scores_best_and_silence_worst(kind: type[AnswerText]) -> None:
    metric = kind()
    metric.update(["She lives in the port of Oslo", ""], ["She lives in the port of Oslo"] * 2)
    assert metric.scores().tolist() == [1.0, 0.0]


@metrics
def test_processes_gather_their_answers_also_without_any(kind: type[AnswerText]) -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        metric = kind()
        if rank == 0:
            metric.update(SAID, RIGHT)
        with metric.sync_context():
            return metric.scores().tolist()

    alone = kind()
    alone.update(SAID, RIGHT)
    assert run_ranks(on_rank) == [alone.scores().tolist()] * 2
