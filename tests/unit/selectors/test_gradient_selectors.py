"""Selectors that take gradients, against float64 autograd written by hand, and their traps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.readouts import ClassificationReadout
from lightning_unlearn.selectors import AtLeast, FisherRatio, GradientSaliency, ModuleDrift, TopShare

READOUT = ClassificationReadout()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches(seed: int, n: int = 3, size: int = 4) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (size,), generator=g))
        for _ in range(n)
    ]


def gradients(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """By the formula for two layers, without autograd: mean over the rows of a batch."""
    a, b, c, d = (p.detach() for p in net.parameters())
    h = torch.tanh(x @ a.T + b)
    delta = ((h @ c.T + d).softmax(1) - F.one_hot(y, 3)) / len(y)
    back = (delta @ c) * (1 - h * h)
    return {"0.weight": back.T @ x, "0.bias": back.sum(0), "2.weight": delta.T @ h, "2.bias": delta.sum(0)}


def mean(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in found]).mean(0) for name in found[0]}


def squared(net: nn.Module, data: list[Any]) -> dict[str, Tensor]:
    return mean([{name: g**2 for name, g in gradients(net, x, y).items()} for x, y in data])


def singly(data: list[Any]) -> list[Any]:
    return [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(y))]


def fisher(selector: FisherRatio, forget: list[Any], retain: list[Any]) -> dict[str, Tensor]:
    return selector.scores(network(), forget=forget, retain=retain, readout=READOUT)


# GradientSaliency


def test_saliency_is_the_size_of_the_mean_gradient() -> None:
    expected = mean([gradients(network(), x, y) for x, y in batches(1)])
    found = GradientSaliency().scores(network(), forget=batches(1), readout=READOUT)
    by_tensor = GradientSaliency(by="tensor").scores(network(), forget=batches(1), readout=READOUT)
    for name, g in expected.items():
        assert_close(found[name].double(), g.abs(), rtol=1e-6, atol=1e-8)
        assert_close(by_tensor[name].double(), g.abs().mean(), rtol=1e-6, atol=1e-8)


def test_gradients_of_opposite_direction_cancel_in_saliency_and_not_in_fisher_information() -> None:
    layer = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(layer.weight)
    opposed = [(torch.ones(1, 1), torch.tensor([0])), (torch.ones(1, 1), torch.tensor([1]))]
    other = [(torch.full((1, 1), 0.1), torch.tensor([0]))]
    assert not GradientSaliency().scores(layer, forget=opposed, readout=READOUT)["weight"].any()
    ratio = FisherRatio(over="retain").scores(layer, forget=opposed, retain=other, readout=READOUT)["weight"]
    assert_close(ratio, torch.full((2, 1), 100.0))


# FisherRatio


@pytest.mark.parametrize("per", ["batch", "example"])
def test_the_ratio_is_that_of_mean_squared_gradients(per: Any) -> None:
    forget, retain = batches(1, n=1), batches(2, n=14)
    split = singly if per == "example" else list
    here, there = squared(network(), split(forget)), squared(network(), split(retain))
    everything = squared(network(), split(forget + retain))
    for name in here:
        all_data = fisher(FisherRatio(per), forget, retain)[name].double()
        assert_close(all_data, here[name] / everything[name], rtol=1e-5, atol=0)
        assert_close(
            fisher(FisherRatio(per, over="retain"), forget, retain)[name].double(),
            here[name] / there[name],
            rtol=1e-5,
            atol=0,
        )
        by_tensor = fisher(FisherRatio(per, by="tensor"), forget, retain)[name].double()
        assert_close(by_tensor, here[name].mean() / everything[name].mean(), rtol=1e-5, atol=0)


def test_with_a_threshold_the_choice_is_that_of_the_published_code() -> None:
    """``where I_f > alpha I_D``, with both sums over batches of one size, as it is written there."""
    forget, retain = batches(1, n=1), batches(2, n=29)
    here, everything = squared(network(), forget), squared(network(), forget + retain)
    chosen = AtLeast(4.0)(fisher(FisherRatio(), forget, retain))
    assert all(torch.equal(chosen[name], here[name] > 4 * everything[name]) for name in here)
    assert 0 < sum(int(m.sum()) for m in chosen.values()) < 51


def test_at_a_large_forget_share_the_published_threshold_chooses_nothing_and_a_warning_says_so() -> None:
    forget, retain = batches(1, n=3), batches(2, n=3)
    with pytest.warns(UserWarning, match=r"Found 50%, at which no score exceeds 2: the published threshold of 10"):
        found = fisher(FisherRatio(), forget, retain)
    assert not any(m.any() for m in AtLeast(10.0)(found).values())
    assert max(float(s.max()) for s in found.values()) <= 2
    unbounded = fisher(FisherRatio(over="retain"), forget, retain)
    assert max(float(s.max()) for s in unbounded.values()) > 10
    # The ranking is the same: the one is a growing function of the other.
    for name, mask in TopShare(0.2)(found).items():
        assert torch.equal(mask, TopShare(0.2)(unbounded)[name])


def test_by_batch_the_order_of_the_data_counts_and_by_example_it_does_not() -> None:
    (x, y), retain = batches(1, n=1, size=8)[0], batches(2, n=14)
    order = y.argsort()
    one, other = ([(x[i], y[i]) for i in indices.split(4)] for indices in (torch.arange(8), order))
    by_batch = [fisher(FisherRatio("batch", over="retain"), data, retain) for data in (one, other)]
    by_example = [fisher(FisherRatio("example", over="retain"), data, retain) for data in (one, other)]
    assert not torch.allclose(by_batch[0]["2.weight"], by_batch[1]["2.weight"], rtol=0.05)
    for name in by_example[0]:
        assert_close(by_example[0][name], by_example[1][name], rtol=1e-5, atol=0)


def test_what_matters_for_neither_scores_nothing_and_what_matters_for_forgetting_alone_is_finite() -> None:
    layer = nn.Linear(3, 2, bias=False)
    here, there = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    label = torch.tensor([0])
    found = FisherRatio(over="retain").scores(layer, forget=[(here, label)], retain=[(there, label)], readout=READOUT)
    score = found["weight"]
    assert (score[:, 0] == torch.finfo(torch.float32).max).all()
    assert (score[:, 2] == 0).all()


# ModuleDrift


def test_drift_is_that_of_hand_written_descent() -> None:
    def drift(data: list[Any]) -> dict[str, Tensor]:
        net = network()
        start = {name: p.detach().clone() for name, p in net.named_parameters()}
        for x, y in data:
            step = gradients(net, x, y)
            with torch.no_grad():
                for name, p in net.named_parameters():
                    p -= 0.1 * step[name]
        return {name: (p.detach() - start[name]).abs().mean() for name, p in net.named_parameters()}

    here, there = drift(batches(1)), drift(batches(2))
    found = ModuleDrift(lr=0.1).scores(network(), forget=batches(1), retain=batches(2), readout=READOUT)
    for name in here:
        assert_close(found[name].double(), here[name] / there[name], rtol=1e-5, atol=0)


def test_weights_are_put_back_bit_for_bit_also_after_an_error() -> None:
    net = network().float()
    start = [p.detach().clone() for p in net.parameters()]
    good = [(x.float(), y) for x, y in batches(1)]
    with pytest.raises(IndexError):
        ModuleDrift(lr=0.1).scores(net, forget=[*good, (good[0][0], good[0][1] + 99)], retain=good, readout=READOUT)
    assert all(torch.equal(p, s) for p, s in zip(net.parameters(), start, strict=True))


def test_a_tensor_that_no_data_moves_is_not_chosen() -> None:
    net = network()
    net.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    found = ModuleDrift().scores(net, forget=batches(1), retain=batches(2), readout=READOUT)
    assert found["unused"] == 0
    assert min(score for name, score in found.items() if name != "unused") > 0


# All


@pytest.mark.parametrize("selector", [GradientSaliency(), FisherRatio(), ModuleDrift()], ids=str)
def test_without_data_or_readout_it_is_refused(selector: Any) -> None:
    with pytest.raises(ValueError, match=r"should get `forget`.*Found no `forget`"):
        selector.scores(network(), retain=batches(1), readout=READOUT)
    with pytest.raises(ValueError, match="Found no `readout`"):
        selector.scores(network(), forget=batches(1), retain=batches(1))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: GradientSaliency(by="row"), "`by` should be"),
        (lambda: FisherRatio(per="token"), "`per` should be"),
        (lambda: FisherRatio(over="nothing"), "`over` should be"),
        (lambda: ModuleDrift(lr=0.0), "`lr` should be positive"),
    ],
)
def test_settings_that_are_none_are_refused(build: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()
