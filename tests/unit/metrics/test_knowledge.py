"""Each metric is its definition, example by example, in the order of the data, on any number of processes."""

from __future__ import annotations

import struct
import zlib
from math import exp, floor, inf, log, sqrt
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _predictions import interleaving, reorder, sample
from _ranks import run_ranks
from torch.testing import assert_close

from lightning_unlearn import AnswerProbability, ExactMemorization, KnowledgeMetric, Prediction, TokenNLL
from lightning_unlearn.metrics import AnswerLogProbability, ExtractionStrength, MinK, MinKPlusPlus, ZlibRatio


def log_p(scores: list[float], label: int) -> float:
    top = max(scores)
    return scores[label] - top - log(sum(exp(s - top) for s in scores))


def token_nll(rows: list[tuple[list[float], int]]) -> float:
    return -sum(log_p(*row) for row in rows) / len(rows)


def answer_probability(rows: list[tuple[list[float], int]]) -> float:
    product = 1.0
    for row in rows:
        product *= exp(log_p(*row))
    return product ** (1 / len(rows))


def exact_memorization(rows: list[tuple[list[float], int]]) -> float:
    return sum(scores.index(max(scores)) == label for scores, label in rows) / len(rows)


def extraction_strength(rows: list[tuple[list[float], int]]) -> float:
    said = 0
    for scores, label in reversed(rows):
        if scores.index(max(scores)) != label:
            break
        said += 1
    return said / len(rows)


def zlib_ratio(rows: list[tuple[list[float], int]]) -> float:
    return token_nll(rows) / len(zlib.compress(b"".join(struct.pack("<i", label) for _, label in rows)))


def lowest(values: list[float], share: float = 0.4) -> float:
    few = sorted(values)[: max(floor(len(values) * share), 1)]
    return sum(few) / len(few)


def min_k(rows: list[tuple[list[float], int]]) -> float:
    return lowest([log_p(*row) for row in rows])


def min_k_plus_plus(rows: list[tuple[list[float], int]]) -> float:
    def standardised(scores: list[float], label: int) -> float:
        every = [log_p(scores, v) for v in range(len(scores))]
        mean = sum(exp(e) * e for e in every)
        return (every[label] - mean) / sqrt(sum(exp(e) * e * e for e in every) - mean**2)

    return lowest([standardised(*row) for row in rows])


def answer_log_probability(rows: list[tuple[list[float], int]]) -> float:
    return sum(log_p(*row) for row in rows)


ORACLES: dict[type[KnowledgeMetric], Any] = {
    AnswerLogProbability: answer_log_probability,
    TokenNLL: token_nll,
    AnswerProbability: answer_probability,
    ExactMemorization: exact_memorization,
    ExtractionStrength: extraction_strength,
    ZlibRatio: zlib_ratio,
    MinK: min_k,
    MinKPlusPlus: min_k_plus_plus,
}
metrics = pytest.mark.parametrize("kind", ORACLES)


def batches(n: int = 4) -> list[Prediction]:
    """Answers of several lengths, some of them not supervised at all, the first and last of a batch among them."""
    counts = [(0, 0, 3, 2), (1, 5, 0), (0, 0), (2,)]
    return [sample(counts[i], seed=i, known=1.5) for i in range(n)]


def oracle(kind: type[KnowledgeMetric], prediction: Prediction) -> list[float]:
    rows = list(zip(prediction.logits.tolist(), prediction.labels.tolist(), strict=True))
    answers = [
        [r for r, e in zip(rows, prediction.example.tolist(), strict=True) if e == i]
        for i in range(prediction.batch_size)
    ]
    return [ORACLES[kind](answer) for answer in answers if answer]


def expected(kind: type[KnowledgeMetric], predictions: list[Prediction]) -> torch.Tensor:
    return torch.tensor(
        [score for prediction in predictions for score in oracle(kind, prediction)], dtype=torch.float64
    )


@metrics
def test_scores_and_mean_are_those_of_the_definition(kind: type[KnowledgeMetric]) -> None:
    metric = kind()
    for prediction in batches():
        metric.update(prediction)
    assert_close(metric.scores(), expected(kind, batches()), rtol=0, atol=1e-6)
    assert_close(metric.compute(), expected(kind, batches()).mean(), rtol=0, atol=1e-6)
    assert metric.compute().dtype == torch.float64


@metrics
def test_interleaved_rows_score_the_same(kind: type[KnowledgeMetric]) -> None:
    (prediction,) = batches(1)
    metric, mixed = kind(), kind()
    metric.update(prediction)
    mixed.update(reorder(prediction, interleaving(prediction)))
    assert_close(mixed.scores(), metric.scores())


@metrics
def test_scores_lie_within_the_bounds_and_better_knowledge_scores_as_said(kind: type[KnowledgeMetric]) -> None:
    knowing, ignorant = kind(), kind()
    knowing.update(sample((4, 3), known=30.0))
    ignorant.update(sample((4, 3), known=-30.0))
    low, high = kind.bounds
    for metric in (knowing, ignorant):
        assert ((low <= metric.scores()) & (metric.scores() <= high)).all()
    assert (knowing.compute() > ignorant.compute()) == kind.higher_means_known
    best = high if kind.higher_means_known else low
    if abs(best) < inf:
        assert knowing.compute().item() == pytest.approx(best, abs=1e-6)


@metrics
def test_nothing_is_kept_of_the_graph(kind: type[KnowledgeMetric]) -> None:
    metric = kind()
    metric.update(batches()[0])
    assert not metric.scores().requires_grad


@metrics
def test_half_precision_logits_lose_no_more_than_they_did(kind: type[KnowledgeMetric]) -> None:
    prediction = sample((200,), known=2.0, dtype=torch.bfloat16)
    metric, exact = kind(), kind()
    metric.update(prediction)
    exact.update(Prediction(prediction.logits.double(), prediction.labels, prediction.example, prediction.batch_size))
    assert_close(metric.scores(), exact.scores(), rtol=0, atol=1e-5)


def test_order_is_that_of_the_data_whatever_the_order_of_the_calls() -> None:
    first, second = batches(2)
    in_order, out_of_order = TokenNLL(), TokenNLL()
    in_order.update(first)
    in_order.update(second)
    out_of_order.update(second, index=torch.arange(4, 7))
    out_of_order.update(first, index=torch.arange(4))
    assert torch.equal(out_of_order.scores(), in_order.scores())


def test_forward_gives_the_batch_and_keeps_the_order_of_all() -> None:
    metric = TokenNLL()
    for prediction in batches(2):
        assert_close(metric(prediction), expected(TokenNLL, [prediction]).mean(), rtol=0, atol=1e-6)
    assert_close(metric.scores(), expected(TokenNLL, batches(2)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric TokenNLL was called before")
def test_reset_forgets_and_nothing_gives_nan() -> None:
    metric = TokenNLL()
    metric.update(batches()[0])
    metric.reset()
    assert metric.scores().shape == (0,)
    assert metric.compute().isnan()
    unsupervised = TokenNLL()
    unsupervised.update(sample((0, 0)))
    assert unsupervised.compute().isnan()
    metric.update(batches()[1])
    assert_close(metric.scores(), expected(TokenNLL, batches()[1:2]), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric TokenNLL was called before")
@pytest.mark.parametrize("shares", [[[0, 2], [1, 3]], [[0, 1, 2, 3], []], [[], [3, 0]], [[2], [1]], [[], []]])
def test_processes_gather_uneven_and_empty_shares_in_the_order_of_the_data(shares: list[list[int]]) -> None:
    starts = [0, 4, 7, 9]

    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        metric = TokenNLL()
        for i in shares[rank]:
            metric.update(batches()[i], index=torch.arange(starts[i], starts[i] + batches()[i].batch_size))
        own = metric.scores()
        with metric.sync_context():
            gathered = metric.scores()
        return own, gathered, metric.scores(), metric.compute()

    together = expected(TokenNLL, [batches()[i] for i in sorted(i for share in shares for i in share)])
    for (own, gathered, again, mean), share in zip(run_ranks(on_rank), shares, strict=True):
        assert_close(gathered, together, rtol=0, atol=1e-6)
        assert torch.equal(own, again)
        assert len(own) == len(expected(TokenNLL, [batches()[i] for i in share]))
        assert_close(mean, together.mean(), rtol=0, atol=1e-6, equal_nan=True)
