"""Large tensors in pieces: nothing changes, to the bit, and each piece is small."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_unlearn.functional.by_rows import by_rows, piece_for
from lightning_unlearn.functional.magnitude import smallest_bound
from lightning_unlearn.functional.quantization import round_to_codebook, round_to_nearest

CHANGES = {
    "a scale per row": (lambda w: round_to_nearest(w, bits=4), 1),
    "groups": (lambda w: round_to_nearest(w, bits=3, group_size=48), 1),
    "blocks that run on from row to row": (lambda w: round_to_codebook(w, "nf4"), 64),
}


@pytest.mark.parametrize(("change", "multiple"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("shape", [(600, 301), (3, 5), (1, 70000), (130, 33, 41)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_give_what_the_whole_gives(
    change: object, multiple: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    sizes: list[int] = []

    def seen(rows: Tensor) -> Tensor:
        sizes.append(rows.numel())
        return change(rows)  # type: ignore[operator,no-any-return]

    assert torch.equal(by_rows(seen, weight, multiple=multiple), change(weight))  # type: ignore[operator]
    assert sum(sizes) == weight.numel()
    assert max(sizes) <= max(piece_for(weight), multiple * weight[0].numel())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_stays_nothing(shape: tuple[int, int]) -> None:
    assert by_rows(lambda rows: rows + 1, torch.empty(shape)).shape == shape


def test_a_bound_over_many_pieces_is_that_of_sorted_magnitudes() -> None:
    magnitudes = torch.rand(3 * piece_for(torch.empty(0)) + 7, generator=torch.Generator().manual_seed(1))
    count = len(magnitudes) // 3
    assert smallest_bound(magnitudes, count).item() == magnitudes.sort().values[count - 1].item()
