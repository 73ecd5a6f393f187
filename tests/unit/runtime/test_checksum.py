"""Any change of any bit is noticed, and looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_unlearn.runtime import _checksum as checksum_file
from lightning_unlearn.runtime import checksum


class Mixed(nn.Module):
    """Types and shapes of all kinds; the seventh tensor spans several blocks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for number, shape in enumerate([(3, 5), (4,), (), (2, 2, 2), (0,)]):
            self.register_parameter(f"p{number}", nn.Parameter(torch.randn(shape, generator=generator)))
        self.register_buffer("halves", torch.randn(7, generator=generator).bfloat16())
        self.register_buffer("wide", torch.randn(12, generator=generator))
        self.register_buffer("integers", torch.arange(3))
        self.register_buffer("flags", torch.tensor([True, False, True]))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum_file, "_BLOCK_ON_CPU", 3)


def test_the_size_of_blocks_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    in_blocks = checksum(Mixed())
    monkeypatch.setattr(checksum_file, "_BLOCK_ON_CPU", 1 << 16)
    assert checksum(Mixed()) == in_blocks


def test_every_single_bit_counts() -> None:
    network = Mixed()
    seen = {checksum(network)}
    flipped = 0
    for tensor in [*network.parameters(), *network.buffers()]:
        octets = tensor.data.view(-1).view(torch.uint8)
        for place in range(octets.numel()):
            for bit in range(8) if tensor.dtype != torch.bool else range(1):
                octets[place] ^= 1 << bit
                seen.add(checksum(network))
                octets[place] ^= 1 << bit
                flipped += 1
    assert len(seen) == flipped + 1 > 1000


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "negate": lambda t: t.neg_(),
    "negate_two": lambda t: t.view(-1)[1:4:2].neg_(),
    "swap": lambda t: t.view(-1)[:2].copy_(t.view(-1)[:2].flip(0).clone()),
    "roll": lambda t: t.copy_(t.roll(1)),
    "one_ulp_everywhere": lambda t: t.copy_(t.nextafter(torch.tensor(torch.inf))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["p0", "p1", "p3", "wide"])
def test_changes_that_a_plain_sum_may_miss(name: str, change: str) -> None:
    network = Mixed()
    before = checksum(network)
    with torch.no_grad():
        CHANGES[change](getattr(network, name))
    assert checksum(network) != before


def test_exchanging_two_parameters_is_noticed() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    before = checksum(network)
    network[0].weight.data, network[1].weight.data = network[1].weight.data, network[0].weight.data
    assert checksum(network) != before


def test_the_same_weights_give_the_same_sum_whatever_their_layout() -> None:
    network, other = Mixed(), Mixed()
    assert checksum(network) == checksum(other) == checksum(network)
    other.p0.data = other.p0.data.T.contiguous().T
    assert checksum(network) == checksum(other)
    assert 0 <= checksum(network) < 1 << 64
    assert checksum(nn.Identity()) == 0


def test_blocks_are_told_apart() -> None:
    network = nn.Module()
    network.register_buffer("b", torch.zeros(100))
    sums = set()
    for place in range(100):
        network.b.zero_()[place] = 1.0
        sums.add(checksum(network))
    assert len(sums) == 100
