"""The area under the ROC curve and what is read off it, against scipy and torchmetrics; intervals by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, mannwhitneyu, norm
from scipy.stats import t as student
from torchmetrics.functional.classification import binary_auroc, binary_roc

from lightning_unlearn.functional.proportions import clopper_pearson
from lightning_unlearn.functional.separation import (
    advantage,
    advantage_interval,
    auc_interval,
    places,
    privacy_leakage,
    recognised,
)


def drawn(seed: int, *, shift: float = 0.5, n: int = 30, m: int = 20, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two samples with many ties."""
    generator = np.random.default_rng(seed)
    return (generator.normal(shift, 1, n)).round(digits), generator.normal(0, 1, m).round(digits)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_place_is_the_area_under_the_curve(seed: int) -> None:
    members, others = drawn(seed)
    assert np.isin(members, others).any()  # ties
    auc = places(members, others).mean()
    assert auc == pytest.approx(mannwhitneyu(members, others).statistic / (len(members) * len(others)))
    scores = torch.tensor(np.concatenate([members, others]))
    labels = torch.tensor([1] * len(members) + [0] * len(others))
    assert auc == pytest.approx(binary_auroc(scores.sigmoid(), labels).item(), abs=1e-6)
    assert places(others, members).mean() == pytest.approx(1 - auc)


def test_infinite_scores_have_a_place_and_undefined_ones_none() -> None:
    assert places([np.inf, -np.inf], [0.0, np.inf]).tolist() == [0.75, 0.0]
    assert np.isnan(places([1.0, 2.0], [np.nan, 0.0])).all()
    assert np.isnan(places([np.nan], [0.0])).all()
    assert auc_interval([np.nan, 1.0], [0.0, 1.0], (["a", "b"], ["c", "d"])) is None
    assert not recognised([np.nan, 1.0], [0.0, 1.0], 0.5).any()


def by_pairs(members: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean([(s > t) + (s == t) / 2 for s in members for t in others]))


def test_the_interval_is_that_of_resampled_clusters_written_out() -> None:
    """Each resample as lists of examples, compared pair by pair."""
    members, others = drawn(1, n=18, m=10)
    who = [f"m{i // 3}" for i in range(18)], [f"o{i // 2}" for i in range(10)]
    generator = np.random.default_rng(5)
    values = []
    blocks = [[generator.multinomial(k, [1 / k] * k, size=100) for k in (6, 5)] for _ in range(2)]
    for times, behind in (pair for block in blocks for pair in zip(*block, strict=True)):
        chosen = [np.repeat(np.arange(len(counts)), counts) for counts in (times, behind)]
        values.append(
            by_pairs(
                np.concatenate([members[3 * c : 3 * c + 3] for c in chosen[0]]),
                np.concatenate([others[2 * c : 2 * c + 2] for c in chosen[1]]),
            )
        )
    # Wider than 2.5 % at each end, as Student's distribution is.
    tail = norm.sf(student.ppf(0.975, 4) * (5 / 4) ** 0.5)
    expected = np.quantile(values, [tail, 1 - tail]).tolist()
    assert auc_interval(members, others, who, draws=200, seed=5) == pytest.approx(expected)


def test_few_clusters_are_left_out_of_account_and_one_example_has_no_interval() -> None:
    members, others = drawn(2, n=8, m=8)
    few, each = [f"{i // 2}" for i in range(8)], [f"{i}" for i in range(8)]
    assert auc_interval(members, others, (few, few)) == auc_interval(members, others, (each, each))
    assert auc_interval([1.0], [0.0, 1.5], (["a"], ["b", "c"])) is None


def test_sets_that_do_not_overlap_are_not_certain() -> None:
    """As many independent pairs as the smaller set has clusters: all of them won."""
    who = [f"m{i // 2}" for i in range(10)], [f"o{i}" for i in range(20)]
    exact = binomtest(5, 5).proportion_ci(method="exact")
    assert auc_interval(np.ones(10), np.zeros(20), who) == pytest.approx((exact.low, 1.0))
    assert auc_interval(np.zeros(10), np.ones(20), who) == pytest.approx((0.0, 1 - exact.low))


def covers(truth: float, seed: int, *, shift: float, entities: int = 30, each: int = 4) -> bool:
    """Whether the interval of two samples, whose examples share a part by entity, covers the true AUC."""
    generator = np.random.default_rng(seed)

    def sample(mean: float) -> np.ndarray:
        of_entity = generator.normal(0, 1, entities).repeat(each)
        return mean + of_entity + generator.normal(0, 1, entities * each)

    who = [f"e{i // each}" for i in range(entities * each)]
    low, high = auc_interval(sample(shift), sample(0.0), (who, who), draws=400, seed=seed) or (1.0, 0.0)
    return low <= truth <= high


@pytest.mark.slow
@pytest.mark.parametrize("entities", [8, 30])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_intervals_cover_the_truth_about_as_often_as_they_say(shift: float, entities: int) -> None:
    truth = 0.5 * (1 + math.erf(shift / math.sqrt(2 * 2) / math.sqrt(2)))  # two normals of variance 2
    trials = 300
    hits = sum(covers(truth, seed, shift=shift, entities=entities) for seed in range(trials))
    # 99 % of the counts that a coverage of 92 % to 97 % gives.
    assert binom.ppf(0.005, trials, 0.92) <= hits <= binom.ppf(0.995, trials, 0.97)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.29, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_as_many_are_recognised_as_the_curve_says(rate: float, seed: int) -> None:
    members, others = drawn(seed, n=40, m=100)
    scores = torch.tensor(np.concatenate([members, others])).sigmoid()
    labels = torch.tensor([1] * 40 + [0] * 100)
    false, true, _ = binary_roc(scores, labels)
    # Of a threshold that is one of the others' scores, this one itself is not taken: rate 1 leaves one other out.
    within = false <= min(rate, 0.99) + 1e-9
    best = true[within].max().item()
    found = recognised(members, others, rate).mean()
    assert found == pytest.approx(best, abs=1e-6) or (rate == 1.0 and found <= best)
    threshold = members[recognised(members, others, rate)].min(initial=np.inf)
    assert (others >= threshold).mean() <= rate + 1e-9


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 7), (3, 9), (9, 9), (1, 400)])
def test_rates_have_the_exact_interval_of_scipy(k: int, n: int) -> None:
    exact = binomtest(k, n).proportion_ci(method="exact")
    assert clopper_pearson(k, n) == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize("interval", [(0.1, 0.3), (0.4, 0.9), (0.2, 0.6), (0.6, 0.95), (0.5, 0.5)])
def test_the_advantage_is_two_sided_and_so_is_its_interval(interval: tuple[float, float]) -> None:
    inside = [advantage(auc) for auc in np.linspace(*interval, 10001)]
    assert advantage_interval(interval) == pytest.approx((min(inside), max(inside)), abs=1e-4)
    assert advantage(0.3) == pytest.approx(advantage(0.7))


def open_unlearning(auc: float, retain: float) -> float:
    """As `src/evals/metrics/privacy.py` computes it, AUC 1 meaning that forget looks like members."""
    return (1 - auc - (1 - retain)) / (1 - retain + 1e-10) * 100


def muse(auc: float, retain: float) -> float:
    """As MUSE writes it, with its AUC the other way round."""
    turned, turned_retain = 1 - auc, 1 - retain
    return (turned - turned_retain) / turned_retain * 100


@pytest.mark.parametrize("auc", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("retain", [0.4, 0.5, 0.9])
def test_privacy_leakage_has_the_sign_of_both_sources(auc: float, retain: float) -> None:
    found = privacy_leakage(auc, retain)
    assert found == pytest.approx(open_unlearning(auc, retain), rel=1e-6, abs=1e-6)
    assert found == pytest.approx(muse(auc, retain))


def test_privacy_leakage_is_not_given_where_it_explodes() -> None:
    """In open-unlearning's issue 167 a control at 0.981 gave 5215."""
    assert open_unlearning(2e-5, 0.9812) > 5000
    assert privacy_leakage(2e-5, 0.9812) is None
    assert privacy_leakage(0.5, float("nan")) is None
    assert privacy_leakage(0.5, 0.979) is not None
