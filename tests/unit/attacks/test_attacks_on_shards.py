"""In two processes an attack on FSDP2 shards is the attack on the whole; flattened parameters are refused."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from _ranks import run_ranks
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn import (
    GGUF,
    GPTQ,
    AblateDirection,
    BitsAndBytes,
    Interpolate,
    LatentPerturbation,
    Merge,
    Noise,
    PassiveRecovery,
    Prune,
    Relearn,
    Sharpen,
    TruncateUpdate,
    Wanda,
)
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.runtime import drop_copies, local


def sibling() -> str:
    """Each process writes its own file."""
    with torch.random.fork_rng(devices=[]):
        torch.save(build().state_dict(), path := f"sibling-{os.getpid()}.pt")
    return path


ATTACKS: dict[str, Any] = {
    "gptq": lambda: GPTQ(3, group_size=2, head=True),
    "wanda": lambda: Wanda(0.4, head=True),
    "nf4-kernel": lambda: BitsAndBytes("nf4", head=True),
    "int8-kernel": lambda: BitsAndBytes("int8", head=True),
    "gguf": lambda: GGUF("Q4_0", head=True),
    "merge": lambda: Merge(sibling(), 0.4),
    "noise": lambda: Noise(0.5, seed=3),
    "prune": lambda: Prune(0.4, head=True),
    "interpolate": lambda: Interpolate(0.5),
    "truncate": lambda: TruncateUpdate(1),
    "sharpen": lambda: Sharpen(0.5),
    "relearn": lambda: Relearn(steps=2, lr=0.01, mode="full"),
    "layers": lambda: Relearn(steps=2, lr=0.01, mode="full", layers=["2"]),
    "passive": lambda: PassiveRecovery(0.5, steps=2, lr=0.01, mode="full"),
    "ablate": lambda: AblateDirection(["0"]),
    "latent": lambda: LatentPerturbation("0", eps=0.5, steps=3),
}


def build() -> nn.Module:
    """Five and three rows do not divide by two: shards are uneven, and one is larger."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 5), nn.GELU(), nn.Linear(5, 3))


class Experts(nn.Module):
    """Five experts of three outputs do not divide by two, either."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = 5
        self.up_proj = nn.Parameter(torch.randn(5, 3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,eoi->bo", x, self.up_proj).tanh()


def of_several_kinds() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv1d(4, 5, 2), nn.Flatten(), nn.Tanh())
    return nn.Sequential(conv, Experts(), nn.GRUCell(3, 3))


def said(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(x)


def attack_shards(rank: int, world_size: int) -> list[str]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(6, 32, generator=generator), torch.randint(0, 3, (6,), generator=generator)
    compared = []
    for name, make in ATTACKS.items():
        on_whole, on_shards = make(), make()
        whole, network = build(), build()
        for layer in (network[0], network[2], network):
            fully_shard(layer)
        on_whole.see_original(whole)
        on_shards.see_original(network)
        with torch.no_grad():
            for net in (whole, network):
                for i, p in enumerate(net.parameters()):
                    p.mul_(1 + 0.3 * (i + 1))
                    p.sub_(0.1 * p.sign() * p.square())  # no longer a multiple of the original
        shards = [local(p).detach().clone() for p in network.parameters()]
        original = said(network, batch[0])  # after which the root holds a gathered copy

        def loss_of(net: nn.Module) -> Any:
            return lambda b: F.cross_entropy(net(b[0]), b[1])

        own: Any = {"attack": [batch], "beside": [(-batch[0], batch[1])]} if make().needs_data == "both" else [batch]
        with (
            on_whole(whole, batches=own, loss=loss_of(whole)) as a,
            on_shards(network, batches=own, loss=loss_of(network)) as b,
        ):
            assert list(a) == list(b)
            attacked = said(network, batch[0])
            assert_close(attacked, said(whole, batch[0]), rtol=1e-5, atol=1e-5)
            assert not torch.equal(attacked, original)
        assert torch.equal(said(network, batch[0]), original)
        drop_copies(network)
        assert all(torch.equal(local(p), kept) for p, kept in zip(network.parameters(), shards, strict=True))
        compared.append(name)
    dist.destroy_process_group()
    return compared


def refuse_cut_rows(rank: int, world_size: int) -> list[str]:
    """Shards along inputs hold parts of every row: no process could round or prune one."""
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    cut = fully_shard(nn.Linear(32, 32), shard_placement_fn=lambda parameter: Shard(parameter.dim() - 1))
    batch, refused = torch.randn(2, 32), []
    for name in ("gptq", "wanda", "gguf"):
        with pytest.raises(ValueError, match=r"replicated, or sharded by its output channels \(dimension 0\).*`skip`"):
            ATTACKS[name]()(cut, batches=[batch], loss=lambda x: cut(x).sum()).__enter__()
        refused.append(name)
    plain = said(cut, batch)
    with ATTACKS["nf4-kernel"]()(cut):  # a kernel has the whole weight
        assert not torch.equal(said(cut, batch), plain)
    dist.destroy_process_group()
    return refused


def test_shards_that_cut_rows_are_refused_by_name_where_rows_are_needed() -> None:
    assert run_ranks(refuse_cut_rows) == [["gptq", "wanda", "gguf"]] * 2


@pytest.mark.parametrize("name", ["gptq", "wanda", "gguf", "nf4-kernel", "int8-kernel"])
def test_weights_that_fsdp1_has_flattened_are_refused_by_name(name: str) -> None:
    network = build()
    for layer in (network[0], network[2]):
        layer.weight = nn.Parameter(layer.weight.detach().flatten())
    with pytest.raises(ValueError, match="should have 2 axes. Found .*FSDP1 and DeepSpeed.*Use FSDP2"):
        ATTACKS[name]()(network, batches=[torch.randn(2, 32)], loss=lambda x: x.sum()).__enter__()


def adapt_shards(rank: int, world_size: int) -> list[float]:
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 8, generator=generator), torch.randint(0, 3, (6,), generator=generator)
    whole, network = of_several_kinds(), of_several_kinds()
    for layer in (*network, network):
        fully_shard(layer)
    shards = [local(p).detach().clone() for p in network.parameters()]
    original, attack = said(network, x), Relearn(steps=3, lr=0.1)

    def loss_of(net: nn.Module) -> Any:
        return lambda batch: F.cross_entropy(net(batch[0]), batch[1])

    with (
        attack(whole, batches=[(x, y)], loss=loss_of(whole)) as a,
        attack(network, batches=[(x, y)], loss=loss_of(network)) as b,
    ):
        assert list(a) == list(b)
        assert_close(said(network, x), said(whole, x), rtol=1e-5, atol=1e-5)
        moved = float((said(network, x) - original).abs().max())
    assert torch.equal(said(network, x), original)
    drop_copies(network)
    assert all(torch.equal(local(p), kept) for p, kept in zip(network.parameters(), shards, strict=True))
    shares = [attack.share_reached(network), attack.share_reached(whole)]
    dist.destroy_process_group()
    return [moved, *shares]


def test_an_adapter_on_shards_of_every_kind_is_that_on_the_whole() -> None:
    for moved, on_shards, on_whole in run_ranks(adapt_shards):
        assert moved > 0.01
        assert on_shards == on_whole == 1


def test_an_attack_on_shards_is_the_attack_on_the_whole() -> None:
    assert run_ranks(attack_shards) == [list(ATTACKS)] * 2


@pytest.mark.parametrize("name", ["interpolate", "merge", "noise", "truncate"])
@pytest.mark.parametrize(("kind", "words"), [("fsdp1", "FSDP1"), ("deepspeed", "DeepSpeed")])
def test_flattened_parameters_are_refused_by_name(name: str, kind: Any, words: str) -> None:
    network, attack = build(), ATTACKS[name]()
    attack.see_original(network)
    engine = copy.copy(GradientEngine(network))
    engine.kind = kind
    with pytest.raises(NotImplementedError, match=f"should find parameters with their own shapes. Found {words}"):
        attack(network, engine=engine).__enter__()
