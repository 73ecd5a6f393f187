"""TOFU's two numbers of a whole model, as metrics: by definition, over batches and over processes."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any

import pytest
import torch
from _ranks import run_ranks
from scipy.stats import hmean
from torch import Tensor

from lightning_unlearn.metrics import ForgetQuality, ModelUtility

SPLITS = ("retain", "real_authors", "world_facts")


def distance_by_definition(some: list[float], others: list[float]) -> float:
    def below(of: list[float], place: float) -> float:
        return sum(each <= place for each in of) / len(of)

    return max(abs(below(some, place) - below(others, place)) for place in some + others)


@pytest.mark.parametrize("seed", range(4))
def test_forget_quality_is_the_share_of_ways_to_deal_out_that_lie_as_far_apart(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    some, others = (torch.rand(n, generator=generator, dtype=torch.float64) + (n == 5) * 0.3 for n in (5, 4))
    metric = ForgetQuality(retained=others)
    metric.update(some[:2])
    metric.update(some[2:])
    observed = distance_by_definition(some.tolist(), others.tolist())
    assert metric.distance().item() == pytest.approx(observed, rel=1e-12)
    pooled = [*some.tolist(), *others.tolist()]
    dealt = [
        distance_by_definition([pooled[i] for i in chosen], [pooled[i] for i in range(9) if i not in chosen])
        for chosen in combinations(range(9), 5)
    ]
    expected = sum(each >= observed - 1e-12 for each in dealt) / len(dealt)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-9)


def test_forget_quality_of_the_retain_model_is_one() -> None:
    metric = ForgetQuality(retained=[0.1, 0.5, 0.3])
    metric.update(torch.tensor([0.3, 0.1, 0.5], dtype=torch.float64))
    assert (metric.compute().item(), metric.distance().item()) == (1.0, 0.0)
    metric.reset()
    metric.update(torch.tensor([0.6, float("inf"), 0.7]))
    assert metric.distance().item() == 1.0


def test_forget_quality_without_a_retain_model_or_questions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`retained` should hold truth ratios of a retain model, .* Found none\. Ask"):
        ForgetQuality(retained=[])
    metric = ForgetQuality(retained=[0.5])
    metric.update(torch.empty(0))
    with pytest.raises(ValueError, match=r"There should be truth ratios .* Found none\. Call `update` first"):
        metric.compute()


def three(seed: int, split: int, n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(10 * seed + split)
    of = torch.rand(3, n, generator=generator)
    return {"probability": of[0], "rouge_l_recall": of[1], "truth_ratio": 1.6 * of[2]}


@pytest.mark.parametrize("seed", [0, 1])
def test_model_utility_is_scipys_harmonic_mean_of_nine_means_over_all_batches(seed: int) -> None:
    metric, nine = ModelUtility(), {}
    for place, split in enumerate(SPLITS):
        of = three(seed, place, n=7 + place)
        for rows in (slice(0, 3), slice(3, None)):
            metric.update(split, **{name: each[rows] for name, each in of.items()})
        better = [max(0.0, 1 - ratio) for ratio in of["truth_ratio"].tolist()]
        means = {**{name: of[name].double().mean().item() for name in of}, "truth_ratio": sum(better) / len(better)}
        nine |= {f"{split}_{name}": mean for name, mean in means.items()}
    assert len(nine) == 9
    assert metric.parts() == pytest.approx(nine, rel=1e-9)
    assert metric.compute().item() == pytest.approx(hmean(list(nine.values())), rel=1e-9)


def test_model_utility_is_zero_if_one_of_nine_is_and_none_while_a_split_is_missing() -> None:
    metric, found = ModelUtility(), []
    for place, split in enumerate(SPLITS):
        metric.update(split, **three(0, place, 4))
        found.append(metric.compute())
    assert [of.isnan().item() for of in found] == [True, True, False]
    zero = ModelUtility()
    for place, split in enumerate(SPLITS):
        zero.update(split, **{**three(0, place, 4), **({"rouge_l_recall": torch.zeros(4)} if place == 1 else {})})
    assert zero.compute().item() == 0


def test_model_utility_of_another_split_or_of_other_questions_is_refused() -> None:
    metric = ModelUtility()
    with pytest.raises(
        ValueError, match=r"`split` should be one of retain, real_authors, world_facts\. Found 'forget'"
    ):
        metric.update("forget", **three(0, 0, 4))
    with pytest.raises(ValueError, match=r"should be of the same questions\. Found 4, 4 and 3\."):
        metric.update("retain", **{**three(0, 0, 4), "truth_ratio": torch.ones(3)})
    assert metric.asked.sum() == 0


def on_rank(rank: int, world_size: int) -> dict[str, Any]:
    """One process has more than the other, and of one split the other has nothing."""
    torch.distributed.init_process_group("gloo")
    warnings.filterwarnings("ignore", message="The ``compute`` method")  # torchmetrics: before `update`
    rows = slice(0, 5) if rank == 0 else slice(5, None)
    ratios = three(0, 0, 8)["truth_ratio"]
    quality, utility = ForgetQuality(retained=[0.2, 0.5, 0.9]), ModelUtility()
    if rank == 0:
        quality.update(ratios)
    known = ForgetQuality(retained=[0.2, 0.5, 0.9], sync_on_compute=False)
    known.update(ratios)
    for place, split in enumerate(SPLITS):
        if rank == 0 or place != 2:
            taken = rows if place != 2 else slice(None)
            utility.update(split, **{name: of[taken] for name, of in three(0, place, 8).items()})
    found = {"quality": quality.compute(), "distance": quality.distance(), "utility": utility.compute()}
    alone = {"quality": known.compute(), "distance": known.distance()}
    return {
        "found": {name: value.item() for name, value in found.items()},
        "parts": utility.parts(),
        "alone": {name: value.item() for name, value in alone.items()},
    }


def test_ranks_are_pooled_unless_each_has_all() -> None:
    whole = ModelUtility()
    for place, split in enumerate(SPLITS):
        whole.update(split, **three(0, place, 8))
    first, second = run_ranks(on_rank)
    assert first["found"] == second["found"] == pytest.approx({**first["alone"], "utility": whole.compute().item()})
    assert first["alone"] == second["alone"]
    assert first["parts"] == second["parts"] == pytest.approx(whole.parts())
