"""Attention row by row is attention under the packed mask, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.functional import row_attention
from lightning_unlearn.functional.packing import Packed, pack
from lightning_unlearn.functional.row_attention import RowMask


def packed(shared: int, lengths: tuple[int, ...]) -> Packed:
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    tokens = torch.randint(1, 99, (len(lengths), width), generator=generator)
    tokens[:, :shared] = torch.arange(1, shared + 1)
    present = torch.arange(width) < torch.tensor(lengths)[:, None]
    supervised = present & (torch.arange(width) >= shared)
    return pack(tokens, present, supervised)


def heads(length: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(1, 3, length, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def attended(mask: Tensor, dtype: torch.dtype, **settings: Any) -> list[Tensor]:
    qkv = heads(mask.shape[-1], dtype)
    out = F.scaled_dot_product_attention(*qkv, attn_mask=mask, **settings)
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    (out * weights).sum().backward()
    return [out.detach(), *(t.grad for t in qkv)]


ROWS = [(3, (7, 5, 9)), (0, (4, 1, 6)), (2, (3, 3)), (0, (5,))]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize(("shared", "lengths"), ROWS)
@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}, {"dropout_p": 0.0}])
def test_it_is_masked_attention(shared: int, lengths: Any, settings: Any, dtype: torch.dtype, atol: float) -> None:
    rows = packed(shared, lengths)
    found, expected = attended(RowMask.of(rows), dtype, **settings), attended(rows.visible, dtype, **settings)
    for a, b in zip(found, expected, strict=True):
        assert type(a) is Tensor
        assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("settings", [{}, {"dropout_p": 0.5}], ids=repr)
def test_what_draws_is_masked_as_a_whole(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(row_attention, "attend_by_rows", lambda *a, **_: calls.append(1) or a[0])
    attended(RowMask.of(packed(3, (7, 5))), torch.float32, **settings)
    assert len(calls) == (0 if settings else 1)


def test_anything_else_sees_a_plain_mask() -> None:
    mask = RowMask.of(packed(3, (7, 5)))
    for made in (mask[:, :, :, :5], mask.to(torch.float32), ~mask, mask.expand(2, -1, -1, -1)):
        assert type(made) is Tensor
