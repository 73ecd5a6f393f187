"""Moving weights past the boundaries of their buckets, and the identities of `research/methods-c.md`, 15.2 and 15.3."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional.buckets import flips, settled
from lightning_unlearn.functional.grids import Grid, pinned, smallest_scale
from lightning_unlearn.functional.quantization import (
    codebook_codes,
    integer_codes,
    round_to_codebook,
    round_to_nearest,
)

GRIDS = {
    "int4": Grid(4),
    "int4-g32": Grid(4, 32),
    "int3-g24": Grid(3, 24),
    "int8": Grid(8),
    "nf4": Grid(4, None, "nf4"),
    "fp4-b32": Grid(4, 32, "fp4"),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
SEVERAL = {
    "ints": [Grid(4, 32), Grid(4, 128)],
    "all": [Grid(4, 32), Grid(4, 128), Grid(4, None, "nf4"), Grid(8)],
}
EACH_AND_SEVERAL = {**{name: [grid] for name, grid in GRIDS.items()}, **SEVERAL}


def rounding(grid: Grid) -> Any:
    if grid.codebook == "int":
        return partial(round_to_nearest, bits=grid.bits, group_size=grid.group_size)
    return partial(round_to_codebook, codebook=grid.codebook, block_size=grid.group_size or 64)


def codes(grid: Grid, weight: Tensor) -> Tensor:
    """By the functions that attacks round with."""
    if grid.codebook == "int":
        return integer_codes(weight, bits=grid.bits, group_size=grid.group_size)
    return codebook_codes(weight, grid.codebook, block_size=grid.group_size or 64)


def uniform(seed: int = 0, shape: tuple[int, int] = (64, 256)) -> Tensor:
    """Weights spread evenly inside their buckets."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def signs(seed: int, shape: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sign()


def flipped(
    weight: Tensor, grids: list[Grid], margin: float = 0.05, drift: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half of all weights that can are moved: directions, which, jumps, and new weights."""
    direction = signs(1, weight.shape)
    found = flips(weight, direction, grids, margin)
    chosen = found.possible & (signs(2, weight.shape) > 0)
    moved = weight + drift * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).to(weight)
    return direction, chosen, found.jump, settled(moved, weight, chosen, found.target, grids, margin)


@every_grid
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_codes_are_those_of_the_rounding(grid: Grid, dtype: torch.dtype) -> None:
    weight = torch.randn(6, 80, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[2] = 0
    ours, theirs = grid.codes(weight, grid.scales(weight)), codes(grid, weight).long()
    zero = 0 if grid.codebook != "int" else (1 << (grid.bits - 1)) - 1
    assert torch.equal(ours, theirs + zero)
    values = (grid.levels(weight)[ours] * grid.scales(weight)).to(dtype)
    assert_close(values, rounding(grid)(weight), rtol=1e-6 if dtype != torch.bfloat16 else 8e-3, atol=0)


@every_grid
def test_the_chosen_codes_move_by_one_and_no_other_moves(grid: Grid) -> None:
    weight = uniform()
    direction, chosen, jump, new = flipped(weight, [grid])
    before, after = codes(grid, weight), codes(grid, new)
    assert 0.2 < chosen.double().mean() < 0.5
    assert torch.equal(after, before + (chosen * direction).int())
    # The rounded values move by exactly the jump: scales are the same numbers.
    change = rounding(grid)(new) - rounding(grid)(weight)
    assert_close(change, chosen * direction * jump, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["int4", "int4-g32", "int3-g24", "nf4"])
def test_codes_are_the_same_after_a_cast_to_bfloat16(name: str) -> None:
    weight = uniform().bfloat16()
    direction, chosen, _, new = flipped(weight, [GRIDS[name]])
    before, after = codes(GRIDS[name], weight), codes(GRIDS[name], new.bfloat16())
    assert torch.equal(after, before + (chosen * direction).int())


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_a_weight_moves_by_half_a_jump_and_the_margin_on_average(margin: float) -> None:
    weight = uniform(shape=(512, 512))
    _, chosen, jump, new = flipped(weight, [Grid(4)], margin)
    chosen &= codes(Grid(4), weight).abs() < 7  # the last buckets are half as wide
    assert ((new - weight).abs() / jump)[chosen].mean() == pytest.approx(0.5 + margin, abs=0.005)


def test_without_a_margin_weights_lie_on_the_boundary_and_half_of_them_stay() -> None:
    weight = uniform(shape=(256, 256))
    direction, chosen, _, new = flipped(weight, [Grid(4)], margin=0.0)
    moved = codes(Grid(4), new) == codes(Grid(4), weight) + direction.int()
    assert moved[chosen].double().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("grids", EACH_AND_SEVERAL.values(), ids=EACH_AND_SEVERAL)
@pytest.mark.parametrize("drift", [1e-3, 0.3])
def test_what_a_fit_has_flipped_stays_flipped_off_the_chosen(grids: list[Grid], drift: float) -> None:
    """The grid is the original's, the bucket that of the weight as it is now, but for what exceeds a scale."""
    weight = uniform()
    direction, chosen, _, new = flipped(weight, grids, drift=drift)
    moved = weight + drift * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).double()
    smallest = smallest_scale(weight, grids)
    moved = torch.where(moved.abs() > smallest, moved.sign() * smallest, moved)
    others = ~chosen & ~pinned(weight, grids)
    for grid in grids:
        now, after = grid.codes(moved, grid.scales(weight)), grid.codes(new, grid.scales(new))
        assert torch.equal(grid.scales(new), grid.scales(weight))
        assert torch.equal(after[others], now[others])
        ways = (after - grid.codes(weight, grid.scales(weight))) * direction
        assert (ways[chosen] >= 1).all()


@pytest.mark.parametrize("now", [0.2144, 0.216, 0.2165])
def test_between_boundaries_that_are_too_close_for_the_margin_a_weight_goes_to_the_middle(now: float) -> None:
    """Its bucket of int4 begins at 1.5 / 7 = 0.21429, that of int8 ends at 27.5 / 127 = 0.21654."""
    original, grids = torch.tensor([[0.215, 1.0]], dtype=torch.float64), [Grid(4), Grid(8)]
    weight, nobody = torch.tensor([[now, 1.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.bool)

    def inside(margin: float) -> float:
        new = settled(weight, original, nobody, torch.zeros_like(original), grids, margin)
        assert [grid.codes(new, grid.scales(new)).tolist() for grid in grids] == [[[9, 14]], [[154, 254]]]
        return new[0, 0].item()

    assert inside(0.05) == pytest.approx((1.5 / 7 + 27.5 / 127) / 2, abs=1e-12)
    assert inside(0.01) == pytest.approx(min(max(now, 1.51 / 7), 27.49 / 127), abs=1e-12)  # there is room for less


@pytest.mark.parametrize("grids", SEVERAL.values(), ids=SEVERAL)
def test_several_grids_are_flipped_at_once_and_their_scales_stay(grids: list[Grid]) -> None:
    weight = uniform()
    direction, chosen, _, new = flipped(weight, grids)
    assert chosen.double().mean() > 0.2
    for grid in grids:
        ways = (codes(grid, new) - codes(grid, weight)) * direction.int()
        assert (ways[chosen] >= 1).all()
        assert torch.equal(codes(grid, new)[~chosen], codes(grid, weight)[~chosen])
        assert torch.equal(grid.scales(new), grid.scales(weight))
    coarsest = max(((codes(g, new) - codes(g, weight)).abs() == 1)[chosen].double().mean() for g in grids)
    assert coarsest > 0.9


@every_grid
def test_the_largest_of_a_group_and_the_last_codes_are_left_out(grid: Grid) -> None:
    weight = uniform()
    up, down = (flips(weight, s * torch.ones_like(weight), [grid], 0.05) for s in (1, -1))
    here, last = grid.codes(weight, grid.scales(weight)), len(grid.levels(weight)) - 1
    largest = pinned(weight, [grid])
    assert 0 < largest.double().mean() <= 1 / 20
    for found, end in ((up, last), (down, 0)):
        assert torch.equal(found.possible, (here != end) & ~largest)
    assert not flips(weight, torch.zeros_like(weight), [grid], 0.05).possible.any()
    assert (smallest_scale(weight, [grid]) >= weight.abs()).all()


def test_moving_the_cheapest_decouples_rounded_from_real_weights() -> None:
    """The trap of 15.3: a hundredth of the weights, those nearest to a boundary, moves the rounded network far more."""
    weight = uniform(shape=(256, 256))
    found = flips(weight, signs(1, weight.shape), [Grid(4)], margin=0.0)
    way = (found.target - weight).abs().where(found.possible, torch.inf)
    nearest = way <= way.flatten().kthvalue(way.numel() // 100).values
    assert found.jump[nearest].mean() / way[nearest].mean() > 100
