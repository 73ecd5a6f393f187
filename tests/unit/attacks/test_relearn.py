from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import Relearn
from lightning_unlearn.attacks._adapter import attached_adapter

MODES = ["adapter", "full"]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


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


@pytest.mark.parametrize("mode", MODES)
def test_network_is_the_same_to_the_bit_afterwards(mode: Any) -> None:
    net = network()
    net[0](torch.zeros(2, 4)).sum().backward()
    before = state(net)
    with Relearn(steps=3, lr=1e-1, mode=mode)(net, batches=batches(), loss=loss_of(net)) as points:
        assert list(points) == [0, 1, 2, 3]
    assert_same_state(before, state(net))


@pytest.mark.parametrize("mode", MODES)
def test_network_is_the_same_after_an_exception_and_when_left_early(mode: Any) -> None:
    net = network()
    before = state(net)
    attack = Relearn(steps=5, lr=1e-1, mode=mode)
    with (
        pytest.raises(RuntimeError, match="while looking"),
        attack(net, batches=batches(), loss=loss_of(net)) as points,
    ):
        next(points), next(points)
        raise RuntimeError("while looking")
    assert_same_state(before, state(net))

    def failing(batch: Any) -> Any:
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"), attack(net, batches=batches(), loss=failing) as points:
        list(points)
    assert_same_state(before, state(net))


@pytest.mark.parametrize("mode", MODES)
def test_loss_falls_along_the_curve(mode: Any) -> None:
    net = network()
    data, loss = batches(1), loss_of(net)
    seen = []
    with Relearn(steps=50, lr=3e-2, mode=mode)(net, batches=data, loss=loss) as points:
        for _ in points:
            net.eval()
            seen.append(loss(data[0]).item())
    assert seen[-1] < 0.5 * seen[0]


def test_first_point_is_the_network_as_it_was() -> None:
    net = network().eval()
    x = torch.randn(5, 4)
    expected = net(x)
    for mode in MODES:
        with Relearn(steps=2, mode=mode)(net, batches=batches(), loss=loss_of(net)) as points:
            assert next(points) == 0
            assert torch.equal(net(x), expected)


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_attack_whatever_the_global_random_state(mode: Any) -> None:
    net = network().eval()
    x = torch.randn(5, 4)
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with Relearn(steps=3, lr=1e-2, mode=mode)(net, batches=batches(), loss=loss_of(net)) as points:
            list(points)
            seen.append(net(x))
    assert torch.equal(*seen)


def test_full_mode_is_plain_adamw() -> None:
    net, by_hand = network().eval(), network().eval()
    by_hand.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0)
    for batch in batches(2):
        optimizer.zero_grad()
        loss_of(by_hand)(batch).backward()
        optimizer.step()
    with Relearn(steps=2, lr=1e-2, mode="full")(net, batches=batches(2), loss=loss_of(net)) as points:
        list(points)
        for a, b in zip(net.parameters(), by_hand.parameters(), strict=True):
            assert_close(a, b, rtol=0, atol=1e-7)


def test_adapter_adds_the_product_of_its_factors_and_freezes_the_base() -> None:
    layer = nn.Linear(4, 3)
    x = torch.randn(2, 4)
    with attached_adapter(layer, rank=2, seed=0) as (a, b):
        assert a.shape == (2, 4)
        assert not layer.weight.requires_grad
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))  # one factor is zero
        b.data.normal_()
        assert_close(layer(x), F.linear(x, layer.weight + b @ a, layer.bias))
    assert layer.weight.requires_grad


def test_only_the_first_batches_are_used() -> None:
    net, used = network(), []
    data = batches(3)

    def loss(batch: Any) -> Any:
        used.append(next(i for i, b in enumerate(data) if b is batch))
        return loss_of(net)(batch)

    with Relearn(steps=4, batches=2)(net, batches=data, loss=loss) as points:
        list(points)
    assert used == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": -1}, "`steps` should be at least 0"),
        ({"lr": 0.0}, "`lr` should be positive"),
        ({"rank": 0}, "`rank` should be at least 1"),
        ({"mode": "some"}, '`mode` should be "adapter" or "full"'),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Relearn(**arguments)


def test_nothing_to_relearn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="should get batches and a loss to relearn from. Found 0 batches"):
        Relearn().__call__(network(), loss=lambda b: b).__enter__()


def test_nothing_to_adapt_or_train_is_refused() -> None:
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="should find trainable parameters"):
        Relearn(mode="full")(frozen, batches=batches(), loss=loss_of(frozen)).__enter__()
    conv = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="should find linear layers to sit on"):
        Relearn()(conv, batches=batches(), loss=loss_of(conv)).__enter__()


def test_the_adapter_sits_on_transposed_layers_too() -> None:
    """GPT-2's layers are `Conv1D`, with weights ``[in, out]``."""
    from transformers.pytorch_utils import Conv1D

    network, x = nn.Sequential(Conv1D(5, 3), nn.Linear(5, 2)), torch.randn(4, 3)
    before = network[0](x).detach()
    with attached_adapter(network, rank=2, seed=0) as factors:
        assert [tuple(f.shape) for f in factors] == [(2, 3), (5, 2), (2, 5), (2, 2)]
        nn.init.normal_(factors[1])
        assert_close(network[0](x), before + x @ factors[0].T @ factors[1].T)
    assert torch.equal(network[0](x), before)
