"""Calibration errors: against torchmetrics, which counts another way; and over samples of clusters."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from lightning_unlearn.functional.calibration import (
    bins_by_cluster,
    calibration_errors,
    resampled_calibration_errors,
)
from lightning_unlearn.functional.depth import depth_scores
from lightning_unlearn.functional.overwriting import pretends


def rows(n: int = 200) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(n, generator=generator, dtype=torch.float64)
    hit = (torch.rand(n, generator=generator) < confidence**2).double()
    return confidence, hit, [f"c{i // 10}" for i in range(n)]


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_it_is_torchmetrics_error(bins: int) -> None:
    confidence, hit, clusters = rows()
    found = calibration_errors(bins_by_cluster(confidence, hit, clusters, bins).sum(0))
    expected = binary_calibration_error(confidence, hit.long(), n_bins=bins, norm="l1")
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_one_bin_is_the_difference_of_means() -> None:
    confidence, hit, clusters = rows()
    found = calibration_errors(bins_by_cluster(confidence, hit, clusters, 1).sum(0))
    assert float(found) == pytest.approx(abs(float(confidence.mean() - hit.mean())))


def test_samples_are_of_whole_clusters() -> None:
    confidence, hit, _ = rows()
    one = bins_by_cluster(confidence, hit, ["same"] * 200, 10)
    found = resampled_calibration_errors(one, 20, torch.Generator().manual_seed(0))
    assert torch.allclose(found, calibration_errors(one.sum(0)))


def test_depth_is_zero_with_the_originals_states_and_one_with_those_of_a_model_that_never_knew() -> None:
    most = torch.tensor([[0.01, 1.0, 3.0]]).double()
    assert depth_scores(torch.zeros(1, 3), most.float()).item() == 0
    assert depth_scores(most, most).item() == 1
    assert depth_scores(2 * most, most).item() == 1  # more than all cannot be gone
    assert depth_scores(-most, most).item() == 0
    by_hand = (1.0 * 0.5 + 3.0 * 0.2) / 4.0
    assert depth_scores(torch.tensor([[5.0, 0.5, 0.6]]).double(), most).item() == pytest.approx(by_hand)


def test_a_layer_that_carries_nothing_does_not_count_and_without_any_there_is_no_score() -> None:
    assert depth_scores(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.04, -1.0]])).isnan().all()


def test_pretending_needs_an_answer_inside_and_its_loss_at_the_end() -> None:
    cases = {
        (0.0, 0.9, 0.001): True,
        (0.9, 0.0, 0.05): True,  # in any inner layer
        (0.0, 0.9, 0.5): False,  # lower, but still there
        (0.05, 0.09, 0.0): False,  # never written
        (0.0, 0.0, 0.9): False,  # known
        (0.9,): False,
    }
    for of_layers, expected in cases.items():
        assert pretends(torch.tensor([of_layers])).tolist() == [expected]
