"""Small tensors that are worked on as one vector: none is lost, none is mixed, and all come back."""

from __future__ import annotations

import pytest
import torch

from lightning_unlearn.functional import bundles as bundles_file
from lightning_unlearn.functional.bundles import bundled, joined, spread_

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bundles_file._LENGTH, "cpu", 10)


@pytest.mark.parametrize("seed", range(20))
def test_each_is_in_one_bundle_of_its_kind_that_is_not_too_long(seed: int) -> None:
    torch.manual_seed(seed)
    sizes, kinds = torch.randint(0, 14, (30,)).tolist(), torch.randint(0, 3, (30,)).tolist()
    found = bundled(sizes, kinds, CPU)
    assert sorted(i for bundle in found for i in bundle) == list(range(30))
    for bundle in found:
        assert len({kinds[i] for i in bundle}) == 1
        assert len(bundle) == 1 or sum(sizes[i] for i in bundle) <= 10
    assert [b[0] for b in found] == sorted(b[0] for b in found)  # so that all ranks see kinds in one order


def test_small_ones_come_together_around_a_large_one() -> None:
    assert bundled([4, 11, 4, 4, 2], "aaaaa", CPU) == [[0, 2], [1], [3, 4]]


def test_nothing_makes_no_bundle() -> None:
    assert bundled([], [], CPU) == []


def test_joined_and_spread_again() -> None:
    tensors = [torch.randn(2, 3), torch.randn(()), torch.randn(4, 2).T, torch.randn(0)]
    whole = joined(tensors, [6, 1, 8, 0])
    assert whole is not None
    copies = [torch.zeros_like(t) for t in tensors]
    spread_(copies, whole)
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors, strict=True))


def test_what_is_missing_counts_as_zeros_of_the_type_of_the_rest() -> None:
    found = joined([None, torch.ones(2, dtype=torch.bfloat16), None], [1, 2, 1])
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [0, 1, 1, 0]


def test_nothing_but_what_is_missing_stays_missing() -> None:
    assert joined([None, None], [1, 2]) is None


def test_a_tensor_by_itself_is_not_copied() -> None:
    alone = torch.randn(2, 2)
    assert joined([alone], [4]) is alone


def test_a_matrix_by_itself_is_written() -> None:
    weight, wanted = torch.zeros(3, 2), torch.randn(3, 2)
    spread_([weight], wanted)
    assert torch.equal(weight, wanted)
