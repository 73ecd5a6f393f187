from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from _attacked_network import assert_same_state, batches, loss_of, network, state
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import Relearn
from lightning_unlearn.attacks._adapter import attached_adapter

MODES = ["adapter", "full"]


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


@pytest.mark.parametrize(
    "part", [lambda w: w[:, :2], lambda w: w[::2, 1:4], lambda w: w.t()], ids=["left", "some", "all"]
)
def test_parameters_that_are_a_part_of_another_tensor_are_trained_alone(part: Any) -> None:
    whole = torch.randn(4, 6)
    before = whole.clone()

    def of(weight: torch.Tensor) -> nn.Linear:
        net = nn.Linear(*reversed(weight.shape), bias=False)
        net.weight = nn.Parameter(weight)
        return net

    net, by_hand = of(part(whole)), of(part(before).clone(memory_format=torch.contiguous_format))
    x = torch.randn(3, net.in_features)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.1, weight_decay=0.0, fused=False)
    for _ in range(2):
        optimizer.zero_grad()
        by_hand(x).square().mean().backward()
        optimizer.step()
    with Relearn(steps=2, lr=0.1, mode="full")(net, batches=[x], loss=lambda b: net(b).square().mean()) as points:
        list(points)
        assert_close(net.weight, by_hand.weight, rtol=0, atol=1e-6)
        around = whole.clone()
        part(around).copy_(part(before))
        assert torch.equal(around, before)  # nothing else has moved
    assert torch.equal(whole, before)


def test_adapter_adds_the_product_of_its_factors_and_freezes_the_base() -> None:
    layer = nn.Linear(4, 3)
    x = torch.randn(2, 4)
    with attached_adapter(layer, rank=2, seed=0) as [change]:
        a, b = change.params
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
    norm = nn.LayerNorm(4)
    with pytest.raises(ValueError, match="should find weight matrices to sit on. Found none in `LayerNorm`"):
        Relearn()(norm, batches=batches(), loss=loss_of(norm)).__enter__()


def test_the_adapter_sits_on_transposed_layers_too() -> None:
    """GPT-2's layers are `Conv1D`, with weights ``[in, out]``."""
    from transformers.pytorch_utils import Conv1D

    network, x = nn.Sequential(Conv1D(5, 3), nn.Linear(5, 2)), torch.randn(4, 3)
    before = network[0](x).detach()
    with attached_adapter(network, rank=2, seed=0) as changes:
        factors = [p for change in changes for p in change.params]
        assert [tuple(f.shape) for f in factors] == [(2, 3), (5, 2), (2, 5), (2, 2)]
        nn.init.normal_(factors[1])
        assert_close(network[0](x), before + x @ factors[0].T @ factors[1].T)
    assert torch.equal(network[0](x), before)


def halved(lr: float, steps: int) -> tuple[nn.Module, float]:
    """How far a network in bf16 comes along a constant gradient, relative to the way in exact arithmetic."""
    torch.manual_seed(0)
    net = nn.Linear(256, 64, bias=False).bfloat16()
    with torch.no_grad():
        net.weight.normal_(std=0.02)
    before = net.weight.detach().float().clone()
    attack = Relearn(steps=steps, lr=lr, mode="full")
    with attack(
        net, batches=[torch.ones(2, 256, dtype=torch.bfloat16)], loss=lambda x: net(x).float().mean()
    ) as points:
        list(points)
        way = (before - net.weight.detach().float()).mean().item() / (lr * steps)
    assert torch.equal(net.weight.float(), before)
    assert way == pytest.approx(attack.realised_share, abs=0.05)
    return net, way


def test_half_precision_does_not_shield_a_model_from_many_small_steps() -> None:
    """Masters in float32 come all the way, and AdamW on the bf16 weights themselves only a part of it."""
    net, way = halved(lr=2e-5, steps=50)
    assert way == pytest.approx(1.0, abs=0.05)
    before = net.weight.detach().float().clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-5, weight_decay=0.0)
    for _ in range(50):
        net.weight.grad = torch.ones_like(net.weight)
        optimizer.step()
    assert (before - net.weight.detach().float()).mean().item() / 1e-3 < 0.6


def test_a_step_that_half_precision_swallows_is_said() -> None:
    with pytest.warns(UserWarning, match='The step of `Relearn\\(mode="full"\\)` should reach the weights'):
        assert halved(lr=1e-6, steps=1)[1] < 0.3


def test_in_float32_all_of_the_way_arrives() -> None:
    net = network()
    attack = Relearn(steps=2, mode="full")
    with attack(net, batches=batches(), loss=loss_of(net)) as points:
        list(points)
    assert attack.realised_share == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_the_optimizer_is_gone_before_the_pass_at_the_last_point(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr("torch.optim.AdamW", Watched)
    net = network()
    with Relearn(steps=2, mode=mode)(net, batches=batches(), loss=loss_of(net)) as points:
        next(points), next(points)
        assert made[0]() is not None
        assert next(points) == 2
        gc.collect()
        assert made[0]() is None


def test_what_is_drawn_from_no_steps_are_none() -> None:
    assert Relearn(steps=0).drawn(torch.Generator()).steps == 0
    drawn = Relearn(steps=7, lr=0.5, batches=2, mode="full", rank=3, store="cpu").drawn(torch.Generator())
    assert 1 <= drawn.steps <= 7
    assert (drawn.lr, drawn.batches, drawn.mode, drawn.rank, drawn.store) == (0.5, 2, "full", 3, "cpu")


def test_the_share_that_it_reaches() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Conv1d(4, 3, 1), nn.Linear(4, 9))
    assert Relearn().share_reached(net) == 1
    assert Relearn(mode="full").share_reached(net) == 1
    net[1].requires_grad_(False)
    assert Relearn().share_reached(net) == 1
    assert Relearn(mode="full").share_reached(net) == 0.75
