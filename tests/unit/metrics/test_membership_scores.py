"""Scores for membership at their edges: short and empty answers, tokens ruled out, flat distributions, text."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
import torch
from _predictions import sample
from torch.testing import assert_close

from lightning_unlearn import Prediction, TokenNLL
from lightning_unlearn.functional.likelihood import mean_of_lowest
from lightning_unlearn.metrics import KnowledgeMetric, MinK, MinKPlusPlus, ZlibRatio
from lightning_unlearn.prediction import KnownLikelihood

SCORES = [MinK, MinKPlusPlus, ZlibRatio]


def scored(metric: KnowledgeMetric, prediction: Prediction) -> torch.Tensor:
    metric.update(prediction)
    return metric.scores()


@pytest.mark.parametrize("kind", SCORES)
def test_examples_without_an_answer_have_no_score_and_change_none(kind: type[KnowledgeMetric]) -> None:
    few = sample((3, 2))
    many = replace(few, example=torch.tensor([1, 1, 1, 3, 3]), batch_size=5)
    assert_close(scored(kind(), many), scored(kind(), few))
    assert len(scored(kind(), sample((0, 0)))) == 0


@pytest.mark.parametrize("k", [0.0, 0.2, 1.0])
def test_an_answer_of_one_token_scores_as_that_token(k: float) -> None:
    one = sample((1, 1, 1))
    nll = scored(TokenNLL(), one)
    assert_close(scored(MinK(k), one), -nll)
    assert_close(scored(MinKPlusPlus(k), one), scored(MinKPlusPlus(1.0), one))
    assert_close(scored(ZlibRatio(lambda tokens: ""), one), nll / len(zlib.compress(b"")))


def test_all_tokens_are_the_mean_and_shares_are_rounded_down() -> None:
    prediction = sample((7, 100))
    assert_close(scored(MinK(1.0), prediction), -scored(TokenNLL(), prediction))
    values = torch.arange(100.0)
    # 0.29 * 100 is a little less than 29 in floating point.
    assert mean_of_lowest(values, torch.zeros(100, dtype=torch.int64), 1, 0.29).item() == sum(range(29)) / 29
    assert mean_of_lowest(values[:7], torch.zeros(7, dtype=torch.int64), 1, 0.4).item() == 0.5  # 2 of 7


def test_a_token_that_is_ruled_out_counts_for_nothing() -> None:
    kept = sample((4,), classes=3)
    ruled_out = replace(kept, logits=torch.cat([kept.logits, torch.full((4, 1), -torch.inf)], dim=1))
    assert_close(scored(MinKPlusPlus(), ruled_out), scored(MinKPlusPlus(), kept))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("level", [0.0, 3.7])
def test_where_all_tokens_are_alike_nothing_is_divided_by_rounding(dtype: torch.dtype, level: float) -> None:
    flat = Prediction(torch.full((2, 50257), level, dtype=dtype), torch.tensor([0, 9]), torch.tensor([0, 0]), 1)
    assert scored(MinKPlusPlus(), flat).tolist() == [0.0]


def test_logits_are_read_in_chunks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = sample((3, 4), classes=11)
    whole = scored(MinKPlusPlus(), prediction)
    from lightning_unlearn.metrics import _min_k_plus_plus as module

    chunks = module.in_chunks
    monkeypatch.setattr(module, "in_chunks", lambda f, *tensors: chunks(f, *tensors, elements=22))
    assert_close(scored(MinKPlusPlus(), prediction), whole, rtol=0, atol=0)


def test_text_is_compressed_where_it_is_known() -> None:
    prediction = sample((3, 2))
    answers = [prediction.labels[:3].tolist(), prediction.labels[3:].tolist()]
    sizes = [len(zlib.compress(("word " * sum(answer)).encode())) for answer in answers]
    expected = scored(TokenNLL(), prediction) / torch.tensor(sizes)
    assert_close(scored(ZlibRatio(lambda tokens: "word " * sum(tokens)), prediction), expected)


def test_repetitive_answers_are_not_taken_for_known_ones() -> None:
    """Equally surprising per token; the one that compresses has the larger ratio."""
    labels = torch.tensor([1] * 12 + list(range(12)))
    prediction = Prediction(torch.zeros(24, 12), labels, torch.arange(2).repeat_interleave(12), 2)
    repetitive, varied = scored(ZlibRatio(), prediction).tolist()
    assert repetitive > varied


def test_min_k_needs_no_logits() -> None:
    metric = MinK()
    metric.update(KnownLikelihood(torch.tensor([0.5, 2.0]), torch.tensor([0, 0]), 1))
    assert metric.scores().tolist() == [-2.0]


@pytest.mark.parametrize("kind", [MinK, MinKPlusPlus])
def test_shares_that_make_no_sense_are_refused(kind: type[KnowledgeMetric]) -> None:
    with pytest.raises(ValueError, match=r"`k` should be between 0 and 1. Found `k = 1.5`"):
        kind(1.5)
