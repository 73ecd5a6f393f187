"""GPTQ and Wanda: what they look at, in which order, and what comes of it, against a network done layer by layer by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import batch, family
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import GPTQ, Prune, Quantize, Wanda
from lightning_unlearn.functional.error_feedback import round_with_feedback


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def network() -> nn.Module:
    """Two blocks, and a layer outside of them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(Block(12), Block(12)), nn.Linear(12, 3))


def data(n: int = 3) -> list[Tensor]:
    mixing = torch.randn(12, 12)
    return [torch.randn(32, 12) @ mixing for _ in range(n)]


def loss_of(net: nn.Module) -> Any:
    return lambda x: net(x).square().mean()


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters() if "weight" in n}


@torch.no_grad()
def test_blocks_are_rounded_in_order_each_on_what_it_gets_from_those_before() -> None:
    net, x = network(), torch.cat(own := data())
    with GPTQ(3, group_size=None)(net, batches=own, loss=loss_of(net)):
        found = weights(net)
    for index in (0, 1):
        block = net[0][index]
        inside = torch.relu(block.first(x))  # of a block that is not rounded yet, as it enters its second layer
        for name, inputs in (("first", x), ("second", inside)):
            weight = getattr(block, name).weight
            expected = round_with_feedback(weight, inputs.T @ inputs, bits=3)
            assert_close(found[f"0.{index}.{name}.weight"], expected, rtol=1e-3, atol=1e-3)
            weight.data.copy_(found[f"0.{index}.{name}.weight"])
        x = block(x)
    assert_close(found["1.weight"], round_with_feedback(net[1].weight, x.T @ x, bits=3), rtol=1e-3, atol=1e-3)


def test_outputs_on_what_must_stay_move_less_than_by_rounding_to_nearest() -> None:
    net = network()
    own = data()
    with torch.no_grad():
        plain = net(torch.cat(own))
        moved = {}
        for name, attack in (("gptq", GPTQ(3, group_size=None)), ("nearest", Quantize(3))):
            with attack(net, batches=own, loss=loss_of(net)):
                moved[name] = float((net(torch.cat(own)) - plain).norm())
    assert moved["gptq"] < 0.8 * moved["nearest"]


@torch.no_grad()
def test_wanda_keeps_of_each_output_the_weights_with_the_largest_products() -> None:
    torch.manual_seed(0)
    net = nn.Linear(10, 4, bias=False)
    own = [torch.randn(20, 10) * torch.logspace(-1, 1, 10) for _ in range(2)]
    norms = torch.cat(own).norm(dim=0)
    with Wanda(0.3)(net, batches=own, loss=loss_of(net)):
        found = net.weight.clone()
    for row, now in zip(net.weight, found, strict=True):
        cut = sorted(range(10), key=lambda j: float(row[j].abs() * norms[j]))[:3]
        assert [j for j in range(10) if not now[j]] == sorted(cut)
        assert all(now[j] == row[j] for j in range(10) if j not in cut)
    with Prune(0.3)(net):
        assert not torch.equal(net.weight, found)


@torch.no_grad()
def test_a_layer_without_inputs_is_rounded_to_nearest_and_pruned_by_magnitude() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    torch.manual_seed(0)
    net = Idle()
    with Quantize(3)(net):
        nearest = weights(net)
    with GPTQ(3, group_size=None)(net, batches=data(), loss=loss_of(net)):
        assert torch.equal(net.idle.weight, nearest["idle.weight"])
        assert not torch.equal(net.used.weight, nearest["used.weight"])
    with Wanda(0.5)(net, batches=data(), loss=loss_of(net)):
        least = net.idle.weight.abs().masked_fill(net.idle.weight == 0, 9).amin(1)
        kept = net.idle.weight.clone()
    assert bool((net.idle.weight.abs().masked_fill(kept != 0, 0).amax(1) <= least).all())


def test_only_the_first_batches_are_looked_at_and_each_once_per_block() -> None:
    net, seen = network(), []
    own = data(5)

    def loss(x: Tensor) -> Tensor:
        seen.append(next(i for i, each in enumerate(own) if each is x))
        return net(x).sum()

    with GPTQ(3, batches=2)(net, batches=iter(own), loss=loss):
        pass
    assert seen == [0, 1] * 3


def test_an_adapter_is_merged_and_its_inputs_are_those_of_the_layer() -> None:
    net = family("llama", lora=True).eval()
    rows = batch()

    def loss(b: Any) -> Tensor:
        return F.cross_entropy(net(b["input_ids"], b["attention_mask"]).logits[0], b["input_ids"][0])

    def said() -> Tensor:
        with torch.no_grad():
            return net(rows["input_ids"], rows["attention_mask"]).logits

    plain = said()
    with GPTQ(4, group_size=None)(net, batches=[rows], loss=loss):
        attacked = said()
        layer = net.base_model.model.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == 0
    assert torch.equal(said(), plain)
    merged = net = net.merge_and_unload()
    with GPTQ(4, group_size=None)(merged, batches=[rows], loss=loss):
        assert_close(attacked, said(), rtol=1e-3, atol=1e-3)


def test_what_is_no_linear_layer_stays_and_is_said() -> None:
    net = nn.Sequential(nn.Conv1d(4, 16, 4), nn.Flatten(), nn.Linear(16, 16))
    for attack in (GPTQ(3), Wanda()):
        assert attack.share_reached(net) == 0.5
        with attack(net, batches=[torch.randn(2, 4, 4)], loss=lambda x: net(x).sum()):
            pass


@pytest.mark.parametrize("attack", [GPTQ(3), Wanda()], ids=["gptq", "wanda"])
def test_compiled_layers_are_seen_too(attack: Any) -> None:
    net, own = network(), data()
    with attack(net, batches=own, loss=loss_of(net)):
        expected = weights(net)
    net.compile(backend="eager")
    with torch.no_grad():
        net(own[0])
    with attack(net, batches=own, loss=loss_of(net)):
        assert all(map(torch.equal, weights(net).values(), expected.values()))
