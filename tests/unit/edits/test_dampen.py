"""Selective synaptic dampening, with labels and without: to the bit what is published, and what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_unlearn.edits import Dampen, DampenUnlabelled
from lightning_unlearn.readouts import ClassificationReadout

Batches = list[Any]
SHARE = "ignore:`Dampen` should have a small forget share"


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv1d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(15), nn.Linear(15, 4))


def batches(seed: int, number: int, size: int = 3) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 1, 6, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(number)
    ]


def importances(net: nn.Module, data: Batches, loss: Callable[..., Tensor], power: int) -> list[Tensor]:
    """As the authors' `calc_importance`: the mean over batches of a power of the gradient, in evaluation mode."""
    net.eval()
    total = [torch.zeros_like(p) for p in net.parameters()]
    for inputs, labels in data:
        net.zero_grad()
        loss(net(inputs), labels).backward()
        for sum_, p in zip(total, net.parameters(), strict=True):
            assert p.grad is not None
            sum_ += p.grad.clone().pow(2) if power == 2 else p.grad.clone().abs()
    for sum_ in total:
        sum_ /= float(len(data))
    net.zero_grad()
    return total


def published(net: nn.Module, here: list[Tensor], everywhere: list[Tensor], alpha: float, dampening: float) -> None:
    """As the authors' `modify_weight`: by indices of what is selected, in place."""
    with torch.no_grad():
        for p, forget, original in zip(net.parameters(), here, everywhere, strict=True):
            locations = torch.where(forget > original.mul(alpha))
            weight = original.mul(dampening).div(forget)
            update = weight[locations]
            update[torch.where(update > 1)] = 1
            p[locations] = p[locations].mul(update)


def edited(edit: Dampen, forget: Batches, retain: Batches, seed: int = 0) -> nn.Module:
    net = network(seed)
    edit(net, forget=forget, retain=retain, readout=ClassificationReadout())
    return net


def changed(net: nn.Module, seed: int = 0) -> int:
    return sum(int((p != q).sum()) for p, q in zip(net.parameters(), network(seed).parameters(), strict=True))


@pytest.mark.filterwarnings(SHARE)
@pytest.mark.parametrize("dampening", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.5, 1.5, 3.0])
@pytest.mark.parametrize(("forget", "retain"), [(1, 9), (2, 6), (4, 4)])
def test_it_is_the_published_edit_to_the_bit(alpha: float, dampening: float, forget: int, retain: int) -> None:
    go, stay = batches(1, forget), batches(2, retain)
    net = network()
    here = importances(net, go, F.cross_entropy, 2)
    published(net, here, importances(net, [*stay, *go], F.cross_entropy, 2), alpha, dampening)
    ours = edited(Dampen(alpha, dampening), go, stay)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("alpha", [0.8, 1.3])
def test_without_labels_it_is_the_published_edit_to_the_bit(alpha: float) -> None:
    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.square().sum(-1).mean()

    go, stay = batches(1, 2), batches(2, 6)
    net = network()
    here = importances(net, go, squared, 1)
    published(net, here, importances(net, [*stay, *go], squared, 1), alpha, 1.0)
    ours = edited(DampenUnlabelled(alpha), go, stay)
    assert changed(ours)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), net.parameters(), strict=True))


def test_without_labels_labels_do_not_count() -> None:
    go, stay = batches(1, 2), batches(2, 6)
    other = [(x, (y + 1) % 4) for x, y in go]
    one, same = edited(DampenUnlabelled(1.3), go, stay), edited(DampenUnlabelled(1.3), other, stay)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))


def test_what_is_selected_shrinks_below_the_bound_and_all_else_stays_to_the_bit() -> None:
    alpha, dampening = 2.0, 1.0
    net = edited(Dampen(alpha, dampening), batches(1, 2), batches(2, 8))
    pairs = [(p.detach(), q.detach()) for p, q in zip(net.parameters(), network().parameters(), strict=True)]
    moved = [(p[p != q] / q[p != q]).abs() for p, q in pairs]
    assert 0 < sum(len(m) for m in moved) < sum(p.numel() for p, _ in pairs)
    assert all((m < dampening / alpha).all() for m in moved)


@pytest.mark.filterwarnings(SHARE)
def test_an_infinite_threshold_is_no_edit_and_nothing_over_nothing_selects_nothing() -> None:
    assert not changed(edited(Dampen(alpha=1e30), batches(1, 1), batches(2, 40)))
    dead = network()
    with torch.no_grad():
        dead[0].bias.fill_(-1e6)  # no gradient reaches the convolution
    before = deepcopy(dead)
    Dampen(alpha=1e-3)(dead, forget=batches(1, 1), retain=batches(2, 3), readout=ClassificationReadout())
    assert torch.equal(dead[0].weight, before[0].weight)
    assert all(p.isfinite().all() for p in dead.parameters())


def test_what_matters_for_the_forget_data_alone_becomes_zero() -> None:
    layer = nn.Linear(2, 2, bias=False)
    here, there = ((torch.tensor([x]), torch.tensor([0])) for x in ([1.0, 0.0], [0.0, 1.0]))
    before = layer.weight.detach().clone()
    Dampen(alpha=1.5, dampening=1e-9)(layer, forget=[here], retain=[there] * 4, readout=ClassificationReadout())
    assert (layer.weight[:, 0].abs() < 1e-7).all()
    assert torch.equal(layer.weight[:, 1], before[:, 1])


@pytest.mark.filterwarnings(SHARE)
def test_from_a_forget_share_of_one_in_alpha_on_nothing_is_selected() -> None:
    go = batches(1, 4)
    assert changed(edited(Dampen(alpha=4.0), go, batches(2, 44)))
    assert not changed(edited(Dampen(alpha=4.0), go, batches(2, 12)))


def test_the_forget_share_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="Found 25%, at which no ratio exceeds 4: `alpha = 10` selects nothing"):
        edited(Dampen(), batches(1, 1), batches(2, 3))


def test_batches_count_as_published() -> None:
    """The square is of a batch's mean: the same examples in other batches are another edit."""
    (x, y), *_ = batches(1, 1, size=6)
    stay = batches(2, 9)
    single = edited(Dampen(1.5), [(x[i : i + 1], y[i : i + 1]) for i in range(6)], stay)
    assert any(
        not torch.equal(p, q)
        for p, q in zip(edited(Dampen(1.5), [(x, y)], stay).parameters(), single.parameters(), strict=True)
    )
