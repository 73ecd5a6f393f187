"""A task vector learned on two streams: what it does when it is subtracted, and that it leaves no trace else."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import LoRA, TinyCausalLM
from lightning_unlearn.edits import NegateLearnedVector
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 12), nn.Dropout(0.5), nn.GELU(), nn.Linear(12, 4))


def batches(seed: int, number: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, 5, generator=generator), torch.randint(0, 4, (6,), generator=generator)) for _ in range(number)
    ]


FORGET, RETAIN = batches(1), batches(2)


def edited(**settings: Any) -> nn.Module:
    net = network()
    edit = NegateLearnedVector(**{"steps": 20, "lr": 0.02, "rank": 2, **settings})
    edit(net, forget=FORGET, retain=RETAIN, readout=ClassificationReadout())
    return net.eval()


def nll(net: nn.Module, data: list[Any] = FORGET) -> float:
    with torch.no_grad():
        return sum(float(F.cross_entropy(net.eval()(x), y)) for x, y in data) / len(data)


def kl(net: nn.Module) -> float:
    with torch.no_grad():
        pairs = [(network().eval()(x).log_softmax(-1), net.eval()(x).log_softmax(-1)) for x, _ in RETAIN]
        return float(torch.stack([F.kl_div(q, p, log_target=True, reduction="batchmean") for p, q in pairs]).mean())


def test_the_more_is_subtracted_the_less_is_known() -> None:
    known = [nll(edited(scale=scale)) for scale in (-1.0, -0.5, 0.0, 0.25, 0.5, 1.0)]
    assert known == sorted(known)
    assert known[-1] > known[2] + 0.1
    assert nll(network()) == known[2]


def test_scales_are_points_on_one_line() -> None:
    """The vector does not depend on the scale: learned once, it is subtracted in any amount."""
    start, half, whole = network(), edited(scale=0.5), edited(scale=1.0)
    for p, q, r in zip(start.parameters(), half.parameters(), whole.parameters(), strict=True):
        assert_close(q, (p + r) / 2, rtol=1e-5, atol=1e-6)


def test_the_vector_is_of_low_rank_and_biases_stay() -> None:
    start, net = network(), edited()
    assert torch.linalg.matrix_rank(net[0].weight - start[0].weight, rtol=1e-4) == 2
    assert torch.equal(net[0].bias, start[0].bias)


def by_hand(divergence: float, bound: float, steps: int) -> list[Tensor]:
    """Two streams in turn, with the sums of weights written out."""
    net = network().eval()
    layers = [net[0], net[3]]
    generator = torch.Generator().manual_seed(0)
    factors = []
    for layer in layers:
        out, inputs = layer.weight.shape
        factors.append(nn.Parameter(torch.randn(2, inputs, generator=generator) / inputs**0.5))
        factors.append(nn.Parameter(torch.zeros(out, 2)))
    adam = torch.optim.Adam(factors, lr=0.02)

    def logits(x: Tensor, scale: float) -> Tensor:
        first, second = (
            layer.weight.detach() + scale * b @ a
            for layer, a, b in zip(layers, factors[::2], factors[1::2], strict=True)
        )
        return F.linear(F.gelu(F.linear(x, first, layers[0].bias.detach())), second, layers[1].bias.detach())

    for step in range(steps):
        adam.zero_grad()
        turn = step // 2 % 3
        if step % 2 == 0:
            x, y = FORGET[turn]
            F.cross_entropy(logits(x, 1.0), y).backward()
        else:
            x, _ = RETAIN[turn]
            target = logits(x, 0.0).softmax(-1).detach()
            apart = (target * (target.log() - logits(x, 1.0).log_softmax(-1))).sum(-1).mean()
            (divergence * torch.clamp(bound - apart, min=0)).backward()
        adam.step()
    return [(b @ a).detach() for a, b in zip(factors[::2], factors[1::2], strict=True)]


@pytest.mark.parametrize(("divergence", "bound"), [(0.5, 1.0), (1.0, 0.05)])
def test_it_is_what_two_streams_by_hand_learn(divergence: float, bound: float) -> None:
    start, net = network(), edited(divergence=divergence, bound=bound, steps=7)
    for layer, vector in zip((0, 3), by_hand(divergence, bound, 7), strict=True):
        assert_close(start[layer].weight - net[layer].weight, vector, rtol=1e-3, atol=1e-5)


def test_the_second_stream_pushes_away_up_to_its_bound() -> None:
    """With the vector added, predictions on retain data have moved further than without this stream; and not without end."""
    alone, pushed, far = (edited(scale=-1.0, **kwargs) for kwargs in STREAMS)
    assert kl(alone) < kl(pushed) < kl(far)
    assert kl(pushed) < 4 * 0.5


STREAMS: list[dict[str, Any]] = [
    {"divergence": 0.0, "steps": 30},
    {"divergence": 20.0, "bound": 0.5, "steps": 60},
    {"divergence": 20.0, "bound": 50.0, "steps": 60},
]


def test_it_leaves_no_trace_but_the_weights() -> None:
    net = network().train()
    modules = list(net.modules())
    state = torch.get_rng_state()
    NegateLearnedVector(steps=3)(net, forget=FORGET, retain=RETAIN, readout=ClassificationReadout())
    assert list(net.modules()) == modules
    assert all(m.training and not m._forward_hooks for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_under_an_adapter_the_base_is_edited() -> None:
    net = LoRA(r=2).wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=1))
    before = deepcopy(net)
    tokens = torch.arange(5, 11)[None]
    batch = {"input_ids": tokens, "labels": tokens}
    NegateLearnedVector(steps=2)(net, forget=[batch], retain=[batch], readout=CausalLMReadout())
    moved = [n for (n, p), q in zip(net.named_parameters(), before.parameters(), strict=True) if not torch.equal(p, q)]
    assert "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight" in moved
    assert not any("embed" in name for name in moved)
