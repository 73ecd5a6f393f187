"""Under FSDP2 a pass that ended in an exception leaves nothing behind: neither gathered weights nor half a backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lightning_unlearn.runtime import checksum, drop_copies, local


def sharded() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    for part in (network[1], network):
        fully_shard(part)
    return network


def gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return [local(p.grad).clone() for p in network.parameters() if p.grad is not None]


def fail(*_: Any) -> None:
    raise RuntimeError("in the midst of a pass")


def broken_forward(network: nn.Module, x: torch.Tensor, place: nn.Module) -> None:
    handle = place.register_forward_pre_hook(fail)
    with torch.no_grad(), pytest.raises(RuntimeError, match="in the midst"):
        network(x)
    handle.remove()


def broken_backward(network: nn.Module, x: torch.Tensor, place: nn.Module) -> None:
    handle = place.register_forward_pre_hook(
        lambda _, args: args[0].requires_grad and args[0].register_hook(fail) and None
    )
    loss = network(x).square().sum()
    with pytest.raises(RuntimeError, match="in the midst"):
        loss.backward()
    handle.remove()
    network.zero_grad()


def compare(rank: int, world_size: int) -> list[str]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    x, done = torch.randn(3, 4, generator=torch.Generator().manual_seed(rank)), []
    expected = gradients(sharded(), x)
    broken: dict[str, Callable[..., None]] = {"forward": broken_forward, "backward": broken_backward}
    for name, breaks in broken.items():
        for place in (None, 1, 2):
            network = sharded()
            gradients(network, x)
            before = checksum(network)
            breaks(network, x, network if place is None and name == "forward" else network[place or 1])
            drop_copies(network)
            assert all(isinstance(p, DTensor) for p in network.parameters())
            assert checksum(network) == before
            for now, then in zip(gradients(network, x), expected, strict=True):
                assert torch.equal(now, then)
            done.append(f"{name} {place}")
    dist.destroy_process_group()
    return done


def test_what_follows_a_broken_pass_is_as_if_there_had_been_none() -> None:
    first, second = run_ranks(compare)
    assert len(first) == len(second) == 6
