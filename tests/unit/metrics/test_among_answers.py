"""How the right answer stands among wrong ones: each metric is its definition, in products of probabilities."""

from __future__ import annotations

from math import exp, log, prod
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _predictions import sample
from _ranks import run_ranks
from torch.testing import assert_close

from lightning_unlearn.metrics import (
    AmongAnswers,
    OptionProbability,
    TruthRatio,
    TruthRatioNearOne,
    TruthRatioTrueBetter,
    TruthRatioTrueShare,
)
from lightning_unlearn.prediction import KnownLikelihood, Prediction


def root_of_product(values: list[float]) -> float:
    return prod(values) ** (1 / len(values))


def ratio(right: float, wrong: list[float]) -> float:
    return root_of_product(wrong) / right


ORACLES: dict[type[AmongAnswers], Any] = {
    TruthRatio: ratio,
    TruthRatioNearOne: lambda right, wrong: min(ratio(right, wrong), right / root_of_product(wrong)),
    TruthRatioTrueBetter: lambda right, wrong: max(0.0, 1 - ratio(right, wrong)),
    TruthRatioTrueShare: lambda right, wrong: right / (right + root_of_product(wrong)),
    OptionProbability: lambda right, wrong: right / sum([right, *wrong]),
}
metrics = pytest.mark.parametrize("kind", ORACLES)


def probabilities(prediction: Prediction) -> list[float]:
    """Of each answer, the geometric mean over its tokens: from float64 logits, row by row."""
    found = []
    for answer in prediction.split_by_example():
        of_tokens = []
        for scores, label in zip(answer.logits.tolist(), answer.labels.tolist(), strict=True):
            of_tokens.append(exp(scores[label]) / sum(map(exp, scores)))
        found.append(root_of_product(of_tokens))
    return found


def questions(n: int = 4, wrong: int = 2) -> Prediction:
    """Answers of one to four tokens."""
    counts = [1 + (3 * number + number // 3) % 4 for number in range(n * (1 + wrong))]
    return sample(counts, known=1.0, seed=3)


def expected(kind: type[AmongAnswers], prediction: Prediction, wrong: int = 2) -> torch.Tensor:
    p = probabilities(prediction)
    of = [p[start : start + 1 + wrong] for start in range(0, len(p), 1 + wrong)]
    return torch.tensor([ORACLES[kind](right, others) for right, *others in of], dtype=torch.float64)


@metrics
def test_scores_and_mean_are_those_of_the_definition(kind: type[AmongAnswers]) -> None:
    metric = kind(wrong=2)
    metric.update(questions())
    assert metric.scores().shape == (4,)
    assert_close(metric.scores(), expected(kind, questions()), rtol=1e-12, atol=0)
    assert_close(metric.compute(), expected(kind, questions()).mean(), rtol=1e-12, atol=0)


@metrics
def test_batches_may_cut_questions_in_two_and_come_in_any_order(kind: type[AmongAnswers]) -> None:
    alone = questions().split_by_example()
    metric = kind(wrong=2)
    for start in (5, 0, 10):  # of five answers each, the last of two
        part = alone[start : start + 5]
        rows = torch.tensor([len(answer.labels) for answer in part])
        batch = Prediction(
            torch.cat([answer.logits for answer in part]),
            torch.cat([answer.labels for answer in part]),
            torch.arange(len(part)).repeat_interleave(rows),
            len(part),
        )
        metric.update(batch, index=torch.arange(start, start + len(part)))
    assert_close(metric.scores(), expected(kind, questions()), rtol=1e-12, atol=0)


@metrics
def test_scores_lie_within_the_bounds_and_better_knowledge_scores_as_said(kind: type[AmongAnswers]) -> None:
    def of(right: float) -> float:
        metric = kind(wrong=2)
        metric.update(KnownLikelihood(torch.tensor([right, 3.0, 4.0]), torch.arange(3), 3))
        low, high = kind.bounds
        assert low <= metric.compute() <= high
        return metric.compute().item()

    assert (of(0.5) > of(2.0)) == kind.higher_means_known


@metrics
def test_impossible_and_certain_answers_give_no_nan(kind: type[AmongAnswers]) -> None:
    # Every probability here is 0 as a float: only their ratio is not.
    nll = torch.tensor([900.0, 901.0, 899.0, 9000.0, 1.0, 1.0], dtype=torch.float64)
    metric = kind(wrong=2)
    metric.update(KnownLikelihood(nll, torch.arange(6), 6))
    scores = metric.scores()
    assert not scores.isnan().any()
    same, far = (ORACLES[kind](exp(-a), [exp(-b), exp(-c)]) for a, b, c in ((2, 3, 1), (700, 1, 1)))
    assert scores[0].item() == pytest.approx(same, abs=1e-12)
    assert kind is TruthRatio or scores[1].item() == pytest.approx(far, abs=1e-12)


@metrics
def test_of_open_unlearning_adds_a_small_term_to_denominators(kind: type[AmongAnswers]) -> None:
    right, wrong = 3e-10, [1e-10, 4e-10]
    nll = -torch.tensor([right, *wrong], dtype=torch.float64).log()
    corrected, compat = kind(wrong=2), kind(wrong=2, compat="open-unlearning")
    for metric in (corrected, compat):
        metric.update(KnownLikelihood(nll, torch.arange(3), 3))
    assert corrected.compute().item() == pytest.approx(ORACLES[kind](right, wrong), rel=1e-9)
    if kind is OptionProbability:
        theirs = right / (right + sum(wrong) + 1e-10)
    else:
        theirs = ORACLES[kind](1.0, [root_of_product(wrong) / (right + 1e-10)])
    assert compat.compute().item() == pytest.approx(theirs, rel=1e-9)


def test_a_question_without_all_of_its_answers_is_refused() -> None:
    for counts, index in (((1, 1, 1, 1), None), ((1, 0, 1), None), ((1, 1, 1), torch.tensor([0, 1, 3]))):
        metric = OptionProbability(wrong=2)
        metric.update(sample(counts), index=index)
        with pytest.raises(ValueError, match=r"3 answers in a row.*Found . answers.*Give all of them"):
            metric.scores()
    with pytest.raises(ValueError, match=r"`wrong` should be at least 1"):
        OptionProbability(wrong=0)
    with pytest.raises(ValueError, match=r"`compat` should be `None`"):
        TruthRatio(compat="muse")  # type: ignore[arg-type]


@metrics
def test_no_questions_have_no_mean(kind: type[AmongAnswers]) -> None:
    metric = kind()
    metric.update(sample((0, 0)))
    assert metric.compute().isnan()


def test_processes_may_share_a_question() -> None:
    def on_rank(rank: int, world_size: int) -> Any:
        dist.init_process_group("gloo")
        metric = TruthRatio(wrong=2)
        for number, answer in enumerate(questions().split_by_example()):
            if (number // 2) % 2 == rank:  # two answers to this process, two to the other
                metric.update(answer, index=torch.tensor([number]))
        with metric.sync_context():
            return metric.scores()

    for gathered in run_ranks(on_rank):
        assert_close(gathered, expected(TruthRatio, questions()), rtol=1e-12, atol=0)


def test_half_and_double_as_likely() -> None:
    nll = [-log(p) for p in (0.4, 0.2, 0.2, 0.2, 0.4, 0.4)]
    values = {}
    for kind in ORACLES:
        metric = kind(wrong=2)
        metric.update(KnownLikelihood(torch.tensor(nll, dtype=torch.float64), torch.arange(6), 6))
        values[kind.__name__] = [round(score, 9) for score in metric.scores().tolist()]
    assert values == {
        "TruthRatio": [0.5, 2.0],
        "TruthRatioNearOne": [0.5, 0.5],
        "TruthRatioTrueBetter": [0.5, 0.0],
        "TruthRatioTrueShare": [round(2 / 3, 9), round(1 / 3, 9)],
        "OptionProbability": [0.5, 0.2],
    }
