"""A small network to attack, its data, and everything about it that an attack has to put back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))


def sibling_file() -> str:
    """The path of the weights of another such network, in the folder of the test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.save(network().state_dict(), "sibling.pt")
    return "sibling.pt"


def batches(n: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(6, 4, generator=generator), torch.randint(0, 3, (6,), generator=generator)) for _ in range(n)]


def loss_of(net: nn.Module) -> Any:
    return lambda batch: F.cross_entropy(net(batch[0]), batch[1])


def state(net: nn.Module) -> list[Any]:
    tensors = [t.clone() for t in [*net.parameters(), *net.buffers()]]
    flags = [(p.requires_grad, p.grad) for p in net.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    return [tensors, flags, [m.training for m in net.modules()], hooks, torch.get_rng_state(), list(net.state_dict())]


def assert_same_state(a: list[Any], b: list[Any]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))
    assert all(x[0] == y[0] and x[1] is y[1] for x, y in zip(a[1], b[1], strict=True))
    assert a[2:4] == b[2:4]
    assert torch.equal(a[4], b[4])
    assert a[5] == b[5]
