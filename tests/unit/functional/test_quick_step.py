"""Float32 products and corrections agree with float64 ones, and say where they would not do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional import quick_step as quick_step_file
from lightning_unlearn.functional.int8_rows import PackedRows, pack_int8
from lightning_unlearn.functional.quick_step import float32_suffices, nearly_parallel, quick_correct_, quick_products
from lightning_unlearn.functional.rows import Rows, StoredRows
from lightning_unlearn.functional.step import StepProducts, step_products

HELD = {
    "float32": lambda rows: StoredRows(rows),
    "bfloat16": lambda rows: StoredRows([row.bfloat16() for row in rows]),
    "int8": lambda rows: PackedRows([pack_int8(row) for row in rows]),
    "one is missing": lambda rows: StoredRows([*rows[:-1], None]),
}


def taken(dtype: torch.dtype, *shape: int, strided: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
    before, *rows = (torch.randn(shape) for _ in range(4))
    after = (before - 1e-2 * rows[0] + 1e-2 * torch.randn(shape)).to(dtype)
    return (after.mT.contiguous().mT if strided else after), before.to(dtype), rows


def relative(found: Tensor, wanted: StepProducts) -> Tensor:
    """Inner products with the step, over both lengths."""
    return found / (wanted.squares[:-1] * wanted.squares[-1]).clamp_min(1e-30).sqrt()


@pytest.mark.parametrize("fresh", [1, 2])
@pytest.mark.parametrize("block", [256, 1 << 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", HELD)
def test_as_in_float64(held: str, dtype: torch.dtype, block: int, fresh: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quick_step_file._BLOCK, "cpu", block)
    after, before, made = taken(dtype, 30, 41, strided=True)
    rows: Rows = HELD[held](made)
    wanted = step_products(after, before, rows)
    found = quick_products(after, before, rows, fresh)
    assert_close(found.gramian, wanted.gramian[:fresh], rtol=0, atol=1e-6 * float(wanted.squares[:3].max()))
    assert_close(relative(found.along, wanted), relative(wanted.along, wanted), rtol=0, atol=1e-6)
    assert_close(found.squares, wanted.squares[[*range(fresh), 3]], rtol=1e-6, atol=0)
    assert found.along.dtype == torch.float64


@pytest.mark.parametrize("multipliers", [[0.01, -0.02, 0.03], [0.0, 0.02, 0.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", HELD)
def test_corrects_to_the_last_bit_but_one(held: str, dtype: torch.dtype, multipliers: list[float]) -> None:
    after, before, made = taken(dtype, 30, 41, strided=True)
    rows: Rows = HELD[held](made)
    factors = torch.tensor(multipliers).double()
    block = torch.empty(3, after.numel(), dtype=torch.float64)
    rows.fill_(block, slice(0, after.numel()))
    expected = (after.double() - (factors @ block).view(30, 41)).to(dtype)
    left = quick_correct_(after, before, rows, factors)
    assert_close(after, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    applied = step_products(after, before, rows)
    assert_close(relative(left[:-1], applied), relative(applied.along, applied), rtol=0, atol=1e-6)
    assert_close(left[-1], applied.squares[-1], rtol=1e-6, atol=0)


def test_steps_of_equal_length_add_up() -> None:
    """As Adam takes them at first: added one after the other in float32, they would be off by 1e-4."""
    after, before = torch.full((1 << 20,), 1e-5), torch.zeros(1 << 20)
    rows = StoredRows([torch.full((1 << 20,), 1e-3)])
    found, wanted = quick_products(after, before, rows, 1), step_products(after, before, rows)
    assert_close(found.squares, wanted.squares, rtol=1e-6, atol=0)
    assert_close(
        quick_correct_(after, before, rows, torch.zeros(1).double())[-1], wanted.squares[-1], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("apart", [1e-3, 1e-1])
def test_what_is_nearly_parallel_is_no_case_for_float32(apart: float) -> None:
    one, two = torch.randn(2, 1000).double()
    near, far = torch.stack([one, one + apart * two]), torch.stack([one, two])
    assert nearly_parallel(near @ near.T)
    assert not nearly_parallel(far @ far.T)
    assert nearly_parallel(torch.stack([far @ far.T, near @ near.T]))  # in one scope of two


@pytest.mark.parametrize("length", [0.0, 1e-16, 1e18, float("inf"), float("nan")])
def test_nor_is_what_cannot_be_squared(length: float) -> None:
    squares = torch.tensor([[1.0, 1.0], [length**2, 1.0]]).double()
    assert not float32_suffices(StepProducts(torch.ones(2, 1, 1).double(), torch.zeros(2, 1).double(), squares))
    assert float32_suffices(StepProducts(torch.ones(1, 1).double(), torch.zeros(1).double(), squares[0]))
