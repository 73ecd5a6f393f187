"""Areas under curves, their null, and the artefact that looks like erasure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, mannwhitneyu, rankdata
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.probing import (
    are_equalised,
    areas_under_curves,
    folded,
    midranks,
    permutation_p_values,
    resampled_areas,
    ridge_scores,
    shuffled_by_cluster,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tied_scores(rows: int = 3, n: int = 30) -> Tensor:
    return torch.randint(0, 8, (rows, n), generator=generator()).double()


def test_ranks_are_those_of_scipy() -> None:
    scores = tied_scores()
    assert_close(midranks(scores), torch.from_numpy(rankdata(scores.numpy(), axis=1)))


def test_areas_are_mann_whitneys_u_over_all_pairs() -> None:
    scores = tied_scores()
    labels = torch.stack([torch.arange(30) % 2 == 0, torch.arange(30) < 5])
    found = areas_under_curves(scores, labels)
    for p, of_labels in enumerate(labels):
        for row, of_scores in enumerate(scores):
            u = mannwhitneyu(of_scores[of_labels].numpy(), of_scores[~of_labels].numpy()).statistic
            pairs = int(of_labels.sum()) * int((~of_labels).sum())
            assert float(found[p, row]) == pytest.approx(u / pairs)


def test_folding_forgets_the_direction_of_the_score() -> None:
    scores, labels = tied_scores(), (torch.arange(30) % 3 == 0)[None]
    assert_close(folded(areas_under_curves(scores, labels)), folded(areas_under_curves(-scores, labels)))


def test_shuffled_labels_are_those_of_whole_clusters_and_as_many_clusters_have_each() -> None:
    clusters = [f"c{i // 3}" for i in range(18)]
    labels = torch.arange(18) // 3 < 2
    shuffled = shuffled_by_cluster(labels, clusters, 40, generator())
    by_cluster = shuffled.view(40, 6, 3)
    assert torch.equal(by_cluster.all(2), by_cluster.any(2))
    assert (by_cluster.all(2).sum(1) == 2).all()
    assert len(shuffled.unique(dim=0)) > 10  # of fifteen


def test_p_values_of_noise_are_uniform_also_of_the_best_of_many_layers() -> None:
    single, largest = [], []
    for seed in range(150):
        scores = torch.randn(6, 24, generator=generator(seed))
        labels, clusters = torch.arange(24) % 2 == 0, list(map(str, range(24)))
        shuffled = shuffled_by_cluster(labels, clusters, 99, generator(seed + 1000))
        observed = folded(areas_under_curves(scores, labels[None]))[0]
        of_each, best = permutation_p_values(observed, folded(areas_under_curves(scores, shuffled)))
        single.append(float(of_each[0]))
        largest.append(best)
    assert kstest(single, "uniform").pvalue > 0.01
    assert kstest(largest, "uniform").pvalue > 0.01


def test_a_ridge_probe_is_the_closed_form_in_the_other_space() -> None:
    states, targets = torch.randn(20, 5, generator=generator()), torch.randn(20, 2, generator=generator(1))
    new = torch.randn(4, 5, generator=generator(2))
    x = (states.numpy() - states.numpy().mean(0)) / states.numpy().std(0)
    y = targets.numpy() - targets.numpy().mean(0)
    penalty = np.trace(x @ x.T) / len(x)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(5), x.T @ y)  # [D, D] instead of [n, n]
    expected = (new.numpy() - states.numpy().mean(0)) / states.numpy().std(0) @ weights
    np.testing.assert_allclose(ridge_scores(states, targets, new).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_cluster_counts_as_one_draw_however_many_rows_it_has() -> None:
    scores = torch.randn(40, generator=generator())
    labels = torch.arange(40) < 20
    alone = [str(i) for i in range(40)]
    once = resampled_areas(scores, labels, alone, 400, generator(3))
    assert float(resampled_areas(scores, labels, alone, 2000, generator()).mean()) == pytest.approx(
        float(areas_under_curves(scores[None], labels[None])), abs=0.02
    )
    doubled = torch.cat([scores, scores])
    twice = resampled_areas(doubled, labels.repeat(2), alone + alone, 400, generator(3))
    assert float(twice.std()) == pytest.approx(float(once.std()), rel=1e-6)  # copies add nothing


@pytest.mark.parametrize("width", [1, 3, 64, 512])
def test_natural_pools_are_not_called_edited_with_and_without_a_signal(width: int) -> None:
    calls = 0
    for seed in range(40):
        labels, clusters = torch.arange(20) % 2 == 0, list(map(str, range(20)))
        states = torch.randn(20, width, generator=generator(seed))
        states[labels] += (seed % 2) * 1.0
        shuffled = shuffled_by_cluster(labels, clusters, 100, generator(seed))
        calls += are_equalised(states, labels, shuffled)
    assert calls <= 1


@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_equal_means_are_called_edited_whatever_signal_is_left(signal: float) -> None:
    labels, clusters = torch.arange(20) % 2 == 0, list(map(str, range(20)))
    states = torch.randn(20, 64, generator=generator())
    states[labels] += signal
    states[labels] -= states[labels].mean(0) - states[~labels].mean(0)
    assert are_equalised(states, labels, shuffled_by_cluster(labels, clusters, 100, generator(1)))
