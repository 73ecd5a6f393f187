"""`Corrupt` shrinks all weights alike, and puts noise of a new initialisation in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import adapted, family
from _ranks import run_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from lightning_unlearn.edits import Corrupt


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Linear(400, 300)).double()


@pytest.mark.parametrize("alpha", [0.25, 0.8, 1.0])
def test_without_noise_each_weight_is_multiplied_exactly(alpha: float) -> None:
    net = network()
    record = Corrupt(alpha=alpha, beta=0)(net)
    for now, before in zip(net.parameters(), network().parameters(), strict=True):
        assert torch.equal(now, before * (1 - alpha))
    assert record.relative_change == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_with_alpha_zero_no_bit_changes(dtype: torch.dtype, beta: float) -> None:
    net = network().to(dtype)
    with torch.no_grad():
        net[2].weight[0] = -0.0  # with zeros added it would be 0.0
    before = [p.detach().clone() for p in net.parameters()]
    record = Corrupt(alpha=0, beta=beta)(net)
    for now, then in zip(net.parameters(), before, strict=True):
        assert torch.equal(now.detach().view(torch.uint8), then.view(torch.uint8))
    assert (record.elements, record.relative_change) == (0, 0.0)


def test_noise_is_that_of_a_new_initialisation_and_vectors_get_none() -> None:
    alpha, beta = 0.4, 0.5
    net = network()
    Corrupt(alpha=alpha, beta=beta)(net)
    pairs = zip(net.named_parameters(), network().parameters(), strict=True)
    noise = {name: (now - (1 - alpha) * before).detach() for (name, now), before in pairs}
    for name in ("0.bias", "1.weight", "1.bias", "2.bias"):
        assert_close(noise[name], torch.zeros_like(noise[name]), rtol=0, atol=1e-15)
    bound = alpha * beta * (6 / (400 + 300)) ** 0.5  # Xavier: uniform up to sqrt(6 / (inputs + outputs))
    drawn = noise["2.weight"]
    assert drawn.abs().max() <= bound
    assert drawn.abs().max() > 0.999 * bound
    assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert abs(float(drawn.mean())) < 0.01 * bound
    assert noise["0.weight"].abs().max() <= alpha * beta * (6 / (2 * 3 + 3 * 3)) ** 0.5


def test_the_seed_decides_and_each_weight_has_noise_of_its_own() -> None:
    one, same, other = network(), network(), network()
    for net, seed in ((one, 1), (same, 1), (other, 2)):
        Corrupt(alpha=1.0, beta=1.0, seed=seed)(net)
    assert torch.equal(one[2].weight, same[2].weight)
    assert not torch.equal(one[2].weight, other[2].weight)
    twins = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    Corrupt(alpha=1.0, beta=1.0)(twins)
    assert not torch.equal(twins[0].weight, twins[1].weight)


def test_tied_weights_are_changed_once() -> None:
    net = family("gpt2").double()
    before = net.get_input_embeddings().weight.detach().clone()
    Corrupt(alpha=0.25)(net)
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight
    assert torch.equal(net.get_output_embeddings().weight, before * 0.75)


def test_shards_become_what_the_whole_becomes() -> None:
    def edit(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        torch.manual_seed(rank)  # the ranks' own generators play no part
        net = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
        Corrupt(alpha=0.4, beta=0.5)(net)
        return {n: p.full_tensor() for n, p in net.named_parameters() if isinstance(p, DTensor)}

    Corrupt(alpha=0.4, beta=0.5)(net := network())
    for there in run_ranks(edit):
        assert all(torch.equal(there[n], p) for n, p in net.named_parameters())


def test_what_cannot_be_corrupted_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="`Corrupt` should get a network without an adapter"):
        Corrupt()(adapted(family("llama")))
    with pytest.raises(ValueError, match="`alpha` should be between 0 and 1. Found `alpha = 1.5`"):
        Corrupt(alpha=1.5)
    with pytest.raises(ValueError, match="`beta` should be finite and not negative"):
        Corrupt(beta=-1)
