"""Rows written out block by block equal rows that are held."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_unlearn.functional import step as step_file
from lightning_unlearn.functional.rows import (
    OuterProducts,
    Piece,
    Rows,
    ScatteredRows,
    StoredRows,
    SumOfPieces,
    WrittenOut,
)
from lightning_unlearn.functional.step import correct_step_, step_products

ROWS, COLUMNS = 7, 3


def outer(dtype: torch.dtype) -> tuple[Piece, Tensor]:
    counts = [2, 0, 4]
    left, right = torch.randn(6, ROWS).to(dtype), torch.randn(6, COLUMNS).to(dtype)
    parts = zip(left.double().split(counts), right.double().split(counts), strict=True)
    return OuterProducts(left, right, counts), torch.stack([torch.einsum("tr,tc->rc", u, v) for u, v in parts])


def scattered(dtype: torch.dtype) -> tuple[Piece, Tensor]:
    index, owner = torch.tensor([1, 6, 1, 1, 0]), torch.tensor([0, 0, 0, 2, 2])
    values = torch.randn(5, COLUMNS).to(dtype)
    expected = torch.zeros(3, ROWS, COLUMNS, dtype=torch.float64)
    for i, j, value in zip(index, owner, values, strict=True):
        expected[j, i] += value
    return ScatteredRows(index, values, owner, count=3), expected


def written(dtype: torch.dtype) -> tuple[Piece, Tensor]:
    values = torch.randn(3, ROWS, COLUMNS).to(dtype)
    return WrittenOut(values), values.double()


PIECES = {"outer": outer, "scattered": scattered, "written": written}


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("blocks", [(1, 1), (8, 1 << 20), (1 << 16, 40), (1 << 16, 1 << 20)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", [["outer"], ["scattered"], ["written"], ["outer", "scattered", "outer"]], ids=str)
def test_products_and_corrections_are_those_of_held_rows(
    names: list[str],
    dtype: torch.dtype,
    blocks: tuple[int, int],
    metric: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", blocks[0])
    monkeypatch.setitem(step_file._BLOCKS, "cpu", blocks[1])
    rows, expected = SumOfPieces(count=5, width=COLUMNS), torch.zeros(5, ROWS, COLUMNS, dtype=torch.float64)
    for place, name in enumerate(names):
        first = min(place, 2)  # overlapping losses
        piece, held = PIECES[name](dtype)
        rows.add(first, piece)
        expected[first : first + 3] += held
    after, before = torch.randn(2, ROWS, COLUMNS, dtype=torch.float64)
    inverse = torch.rand(ROWS, COLUMNS) if metric else None
    found, wanted = (step_products(after, before, g, inverse) for g in (rows, StoredRows(list(expected))))
    exact = {"rtol": 1e-5, "atol": 1e-5} if dtype != torch.float64 else {"rtol": 1e-12, "atol": 1e-12}
    for name in ("gramian", "along", "squares"):
        assert_close(getattr(found, name), getattr(wanted, name), **exact)
    multipliers = torch.randn(5, dtype=torch.float64)
    corrected, again = after.clone(), after.clone()
    correct_step_(corrected, before, rows, multipliers, inverse)
    correct_step_(again, before, StoredRows(list(expected)), multipliers, inverse)
    assert_close(corrected, again, **exact)


def test_blocks_together_stay_small_however_many_directions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Rows):
        width = 5
        blocks: list[Tensor] = []

        def __len__(self) -> int:
            return 100

        def fill_(self, block: Tensor, here: slice) -> None:
            assert here.start % self.width == 0
            self.blocks.append(block)

    monkeypatch.setitem(step_file._BLOCKS, "cpu", 1100)
    step_products(torch.ones(40, 5), torch.zeros(40, 5), Seen())
    assert {block.numel() for block in Seen.blocks} == {1000}
    assert len(Seen.blocks) == 20
