"""Packed as int8, a vector keeps what the largest of 256 neighbours allows, and products are those of what is kept."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lightning_unlearn.functional import step as step_file
from lightning_unlearn.functional.int8_rows import PackedRows, codes_and_scales, pack_int8, unpack_int8_
from lightning_unlearn.functional.rows import StoredRows
from lightning_unlearn.functional.step import correct_step_, step_products

SIZES = [0, 1, 255, 256, 257, 1000]


def unpacked(packed: torch.Tensor, size: int, start: int = 0) -> torch.Tensor:
    out = torch.full((1, size - start), float("nan"), dtype=torch.float64)
    codes, scales = codes_and_scales(packed)
    unpack_int8_(out, [codes], scales[None], start)
    return out[0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("size", SIZES)
def test_every_element_is_off_by_at_most_half_a_level_of_its_neighbours(size: int, scale: float) -> None:
    vector = torch.randn(size) * scale
    vector[::3] *= 1e-3
    kept = unpacked(pack_int8(vector), size)
    for block, found in zip(vector.double().split(256), kept.split(256), strict=True):
        assert ((block - found).abs() <= 1.00001 * float(block.abs().amax() if len(block) else 0) / 254).all()


@pytest.mark.parametrize("start", [0, 256, 512])
def test_it_can_be_read_from_any_multiple_on(start: int) -> None:
    packed = pack_int8(torch.randn(700))
    assert torch.equal(unpacked(packed, 700, start), unpacked(packed, 700)[start:])


def test_a_quarter_of_the_memory_and_little_more() -> None:
    packed = pack_int8(torch.randn(64, 256))
    assert packed.nbytes == 64 * 260


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    vector = torch.ones(600)
    vector[300] = bad
    assert not unpacked(pack_int8(vector), 600).isfinite().all()


def test_zeros_stay_zeros() -> None:
    assert not unpacked(pack_int8(torch.zeros(300)), 300).any()


@pytest.mark.parametrize("multipliers", [[0.3, -0.2, 0.1, 0.7], [0.0, 0.5, 0.0, 0.0]])
@pytest.mark.parametrize("block", [256, 512, 1 << 17])
@pytest.mark.parametrize("others", ["packed", "none"])
def test_products_and_corrections_are_those_of_what_is_kept(
    others: str, block: int, multipliers: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(step_file._BLOCK, "cpu", block)
    after, before = torch.randn(30, 30), torch.randn(30, 30)
    packed: list[torch.Tensor | None] = [pack_int8(torch.randn(30, 30)) for _ in range(4)]
    held = [None if p is None else unpacked(p, 900).view(30, 30) for p in packed]
    if others == "none":
        packed[3] = held[3] = None
    found = step_products(after, before, PackedRows(packed))
    wanted = step_products(after, before, StoredRows(held))
    for name in ("gramian", "along", "squares"):
        assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-12, atol=1e-12)
    weights, again = torch.tensor(multipliers, dtype=torch.float64), after.clone()
    left = correct_step_(after, before, PackedRows(packed), weights)
    assert_close(left, correct_step_(again, before, StoredRows(held), weights), rtol=1e-6, atol=1e-5)
    assert_close(after, again)
