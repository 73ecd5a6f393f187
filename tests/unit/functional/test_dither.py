"""What rounding does to a small change: `research/methods-c.md`, 15.2. It is not erased, but sparse and noisy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_unlearn.functional.grids import Grid, expected_flips, pinned, widths

GRIDS = {"int4": Grid(4, 128), "int8": Grid(8, 128), "nf4": Grid(4, None, "nf4")}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def gaussian(seed: int = 0, size: int = 1024) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) * 0.02


def rounded(weight: Tensor, grid: Grid) -> Tensor:
    scales = grid.scales(weight)
    return grid.levels(weight)[grid.codes(weight, scales)] * scales


def shifted(weight: Tensor, grid: Grid, by: float | Tensor) -> Tensor:
    """All but the largest of each group, whose scale stays."""
    return torch.where(pinned(weight, [grid]), weight, weight + by)


def flip_share(before: Tensor, after: Tensor, grid: Grid) -> float:
    codes = (grid.codes(w, grid.scales(w)) for w in (before, after))
    return float((next(codes) != next(codes)).double().mean())


def four_bits_with_a_minimum(weight: Tensor) -> Tensor:
    """Sixteen levels from the smallest to the largest of each 32, as in GGUF's Q4_1."""
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    return (((groups - low) / step).round() * step + low).flatten(1)


@every_grid
@pytest.mark.parametrize("by", [1e-4, 1e-3])
def test_a_change_survives_on_average(grid: Grid, by: float) -> None:
    weight = gaussian()
    moves = ~pinned(weight, [grid])
    change = (rounded(shifted(weight, grid, by), grid) - rounded(weight, grid))[moves]
    assert change.mean() / by == pytest.approx(1.0, abs=0.04)


@every_grid
@pytest.mark.parametrize("by", [1e-4, -1e-3])
def test_as_many_codes_flip_as_the_change_over_the_width(grid: Grid, by: float) -> None:
    weight = gaussian()
    after = shifted(weight, grid, by)
    assert flip_share(weight, after, grid) == pytest.approx(float(expected_flips(weight, after, grid)), rel=0.04)


@pytest.mark.parametrize(("by", "ratio"), [(1e-5, 28.0), (1e-4, 8.4), (1e-3, 2.5)])
def test_most_of_it_is_noise(by: float, ratio: float) -> None:
    """Each flip is a whole step: the variance is that of a coin that comes up with probability `|d| / B`."""
    grid, weight = Grid(4, 128), gaussian()
    moves = ~pinned(weight, [grid])
    change = (rounded(shifted(weight, grid, by), grid) - rounded(weight, grid))[moves]
    width = (grid.scales(weight) / 7)[moves]
    assert change.var() == pytest.approx(float((by * (width - by)).mean()), rel=0.05)
    assert change.std() / by == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("share", [1e-3, 1e-2])
def test_a_neuron_hears_a_coherent_update_above_that_noise_as_the_root_of_its_inputs(share: float) -> None:
    r"""Of :math:`N` Gaussian inputs, and an update along their signs: :math:`0.8 \sqrt{N |d| / B}`."""
    grid, weight = Grid(4, 128), gaussian()
    inputs = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    width = float(grid.scales(weight).mean() / 7)
    after = shifted(weight, grid, share * width * inputs.sign())
    heard = (rounded(after, grid) - rounded(weight, grid)).float() @ inputs  # by each of the rows
    assert heard.mean() / heard.std() == pytest.approx(0.8 * (len(inputs) * share) ** 0.5, rel=0.1)


@every_grid
def test_on_its_own_grid_it_is_erased_exactly_up_to_half_a_bucket(grid: Grid) -> None:
    weight = rounded(gaussian(size=512), grid).float()
    step = widths(weight, grid)[widths(weight, grid) > 0].min()
    small, large = shifted(weight, grid, 0.49 * float(step)), shifted(weight, grid, 3 * float(step))
    assert flip_share(weight, small, grid) == 0
    assert torch.equal(rounded(small, grid), rounded(weight, grid))
    assert flip_share(weight, large, grid) > 0.2


@every_grid
def test_on_any_other_grid_it_is_dithered_as_usual(grid: Grid) -> None:
    weight, by = four_bits_with_a_minimum(gaussian()), 1e-3
    other = grid if grid.codebook != "int" or grid.bits != 4 else Grid(4, 32)
    after = shifted(weight, other, by)
    change = (rounded(after, other) - rounded(weight, other))[~pinned(weight, [other])]
    assert change.mean() / by == pytest.approx(1.0, abs=0.06)
    native = gaussian()
    usual = flip_share(native, shifted(native, other, by), other)
    assert flip_share(weight, after, other) == pytest.approx(usual, rel=0.08)


def test_back_on_a_grid_with_a_minimum_it_is_erased() -> None:
    weight, by = four_bits_with_a_minimum(gaussian()), 1e-3
    groups = weight.unflatten(1, (-1, 32))
    ends = ((groups == groups.amin(-1, keepdim=True)) | (groups == groups.amax(-1, keepdim=True))).flatten(1)
    again = four_bits_with_a_minimum(torch.where(ends, weight, weight + by))
    assert (again - weight)[~ends].mean() / by == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("share", "survives"), [(0.49, 0.49), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0)])
def test_half_a_bucket_is_no_guarantee_and_a_whole_one_is(share: float, survives: float) -> None:
    grid = Grid(4, 128)
    weight = torch.rand(512, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    interior = grid.codes(weight, grid.scales(weight)).sub(7).abs() < 6
    after = torch.where(pinned(weight, [grid]), weight, weight + share * grid.scales(weight) / 7)
    flipped = grid.codes(after, grid.scales(weight)) != grid.codes(weight, grid.scales(weight))
    assert flipped[interior].double().mean() == pytest.approx(survives, abs=0.005)


@pytest.mark.parametrize(
    ("name", "by", "flips"),
    [
        *[("int4", 0.01, 0.02), ("int4", 0.05, 0.10), ("int4", 0.20, 0.35)],
        *[("int8", 0.01, 0.38), ("int8", 0.05, 0.83), ("int8", 0.20, 0.95)],
        *[("nf4", 0.01, 0.02), ("nf4", 0.05, 0.12), ("nf4", 0.20, 0.42)],
    ],
)
def test_a_scale_that_moves_flips_the_codes_of_its_whole_group(name: str, by: float, flips: float) -> None:
    weight, grid = gaussian(size=512), GRIDS[name]
    largest = pinned(weight, [grid])
    after = torch.where(largest, weight * (1 + by), weight)
    flipped = grid.codes(weight, grid.scales(weight)) != grid.codes(after, grid.scales(after))
    assert flipped[~largest].double().mean() == pytest.approx(flips, abs=0.04)
