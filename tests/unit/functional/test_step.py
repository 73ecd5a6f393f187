"""Products and corrections of one tensor equal those of long float64 vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional import step as step_file
from lightning_unlearn.functional.rows import StoredRows
from lightning_unlearn.functional.step import StepProducts, correct_step_, step_products

SHAPES = [(3, 4), (), (7,), (0, 3), (2, 3, 5)]


def tensors(shape: tuple[int, ...], dtype: torch.dtype, strided: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
    made = [torch.randn(shape).to(dtype) for _ in range(5)]
    if strided and len(shape) > 1:
        made = [t.mT.contiguous().mT for t in made]
    return made[0], made[1], made[2:]


@pytest.mark.parametrize("metric", [None, "diagonal", "none at all"])
@pytest.mark.parametrize("block", [1, 4, 1 << 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_long_vectors(
    shape: tuple[int, ...], dtype: torch.dtype, block: int, metric: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", block)
    after, before, directions = tensors(shape, dtype, strided=True)
    inverse = None if metric is None else torch.rand(shape) if metric == "diagonal" else torch.zeros(())
    weights = torch.ones(after.numel()) if inverse is None else inverse.expand(shape).flatten()
    g = torch.stack([t.double().flatten() for t in directions])
    d = (after - before).double().flatten()
    found = step_products(after, before, StoredRows([*directions, None]), inverse)
    assert_close(found.gramian[:3, :3], g @ (weights.double() * g).T)
    assert_close(found.along[:3], g @ d)
    assert_close(found.squares, torch.cat([g.square().sum(1), torch.zeros(1), d.square().sum()[None]]).double())
    assert not found.gramian[3].any()
    assert not found.along[3]

    multipliers = torch.randn(4, dtype=torch.float64)
    expected = (after.double().flatten() - weights * (multipliers[:3] @ g)).view(shape).to(dtype)
    left = correct_step_(after, before, StoredRows([*directions, None]), multipliers, inverse)
    assert torch.equal(after, expected)
    d = (expected - before).double().flatten()
    assert_close(left, torch.cat([g @ d, torch.zeros(1), d.square().sum()[None]]).double())


@pytest.mark.parametrize("place", [0, 2])
def test_one_direction_at_work(place: int) -> None:
    after, before, directions = tensors((3, 4), torch.float32, strided=True)
    multipliers = torch.zeros(3, dtype=torch.float64)
    multipliers[place] = 0.3
    expected = after.double() - 0.3 * directions[place].double()
    left = correct_step_(after, before, StoredRows(directions), multipliers)
    assert_close(after.double(), expected, rtol=0, atol=1e-6)
    d = (after - before).double()
    assert_close(left, torch.stack([(d * other).sum() for other in (*directions, d)]))


def test_direction_so_short_that_its_multiplier_is_no_float32() -> None:
    after, before = torch.tensor([1.0, 2.0]), torch.zeros(2)
    correct_step_(after, before, StoredRows([torch.tensor([0.0, 1e-40])]), torch.tensor([5e39], dtype=torch.float64))
    assert_close(after, torch.tensor([1.0, 1.5]), rtol=1e-4, atol=0)  # the row has five digits left


@pytest.mark.parametrize("fresh", [1, 2])
@pytest.mark.parametrize("metric", [None, torch.rand(3, 4)])
def test_what_is_known_is_not_computed_again(fresh: int, metric: Tensor | None) -> None:
    after, before, directions = tensors((3, 4), torch.float32)
    whole = step_products(after, before, StoredRows(directions), metric)
    part = step_products(after, before, StoredRows(directions), metric, fresh=fresh)
    assert part.gramian.shape == (fresh, 3)
    assert part.packed.shape == (fresh + 2, 4)
    completed = StepProducts.unpacked(part.packed).completed(whole.gramian[fresh:, fresh:], whole.squares[fresh:3])
    for name in ("gramian", "along", "squares"):
        assert_close(getattr(completed, name), getattr(whole, name))


def test_packing_loses_nothing() -> None:
    after, before, directions = tensors((3, 4), torch.float32)
    found = step_products(after, before, StoredRows(directions))
    again = StepProducts.unpacked(found.packed)
    for name in ("gramian", "along", "squares"):
        assert torch.equal(getattr(found, name), getattr(again, name))
