"""An attacker trains weights in few bits as anybody would: the values they stand for, in full; and they stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_unlearn.attacks import Relearn
from lightning_unlearn.models.layers import dequantized

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes stores weights in few bits")


class Packed(Tensor):
    """As tensors of torchao: under a floating dtype, with values of their own."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).sign() / 8

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.linear:
            x, weight, *bias = args
            return function(x, weight.dequantize(), *bias)
        return super().__torch_function__(function, types, args, kwargs)


def packed() -> nn.Module:
    layer = nn.Linear(64, 32)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Packed), requires_grad=False)
    return layer


LAYERS = {
    "nf4": lambda: bnb.nn.Linear4bit(64, 32, quant_type="nf4", compute_dtype=torch.float32).to("cpu"),
    "fp4": lambda: bnb.nn.Linear4bit(64, 32, quant_type="fp4", compute_dtype=torch.float32).to("cpu"),
    "int8": lambda: bnb.nn.Linear8bitLt(64, 32, has_fp16_weights=False).to("cpu"),
    "torchao": packed,
}


def in_full(layer: Any) -> nn.Module:
    """The same layer with its values in float32."""
    plain = nn.Linear(64, 32)
    with torch.no_grad():
        plain.weight.copy_(dequantized(layer.weight, layer).float())
        plain.bias.copy_(layer.bias)
    return plain


def attacked(network: nn.Module, attack: Relearn, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the network answers before and under the attack."""
    with torch.no_grad():
        before = network(x)
    with attack(network, batches=[x], loss=lambda x: network(x).square().mean()) as points:
        for _ in points:
            pass
        with torch.no_grad():
            return before, network(x)


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_full_training_is_that_of_the_dequantised_network(build: Any) -> None:
    torch.manual_seed(0)
    layer, head, x = build(), nn.Linear(32, 3), torch.randn(7, 64)
    network, plain = nn.Sequential(layer, head), nn.Sequential(in_full(layer), head)
    kept = [p.detach().clone() for p in network.parameters()]
    attack = Relearn(steps=5, lr=0.01, mode="full")
    before, under = attacked(network, attack, x)
    expected_before, expected = attacked(plain, attack, x)
    # int8 rounds its inputs, too, which the attacker's part does not.
    assert_close(under - before, expected - expected_before, rtol=0.03, atol=0.01)
    assert not torch.allclose(under, before, atol=0.05)
    assert all(torch.equal(p, value) for p, value in zip(network.parameters(), kept, strict=True))
    assert torch.equal(network(x), before)
    assert attack.share_reached(network) == 1


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("mode", ["adapter", "full"])
@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
def test_a_network_of_nothing_but_few_bits_is_reached(build: Any, mode: Any) -> None:
    torch.manual_seed(0)
    network, x = build().requires_grad_(False), torch.randn(7, 64)
    attack = Relearn(steps=3, lr=0.01, mode=mode)
    before, under = attacked(network, attack, x)
    assert float((under - before).abs().max()) > 0.01
    assert torch.equal(network(x), before)
    assert attack.share_reached(network) == 1


def test_what_is_frozen_otherwise_stays_frozen() -> None:
    network, x = nn.Sequential(LAYERS["nf4"](), nn.Linear(32, 32).requires_grad_(False)), torch.randn(7, 64)
    attack = Relearn(steps=2, lr=0.01, mode="full")
    with attack(network, batches=[x], loss=lambda x: network(x).square().mean()) as points:
        assert list(points) == [0, 1, 2]
        assert not network[1].weight.requires_grad
    assert attack.share_reached(network) == pytest.approx(64 * 32 / (64 * 32 + 32 * 32))
