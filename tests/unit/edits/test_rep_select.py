"""`RepSelect` steps along the collapsed gradient that is left once an adapter has learnt what is easy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _language_models import adapted, batch, family
from _ranks import run_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_unlearn.edits import RepSelect
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout
from lightning_unlearn.transforms import SpectralCollapse


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.mlp = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8))
            self.head = nn.Linear(8, 4)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mlp(x))


def batches(count: int = 3) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 6, generator=generator).double(), torch.randint(0, 4, (5,), generator=generator))
        for _ in range(count)
    ]


def edit(net: nn.Module, forget: Any = None, **settings: Any) -> Any:
    settings = {"collapse": SpectralCollapse(q=2, kind="both", pattern="mlp"), **settings}
    forget = batches() if forget is None else forget
    return RepSelect(**settings)(net, forget=forget, readout=ClassificationReadout())


def by_hand(scale: float, lr: float, down: dict[str, Tensor], q: int) -> dict[str, Tensor]:
    """The adapter as a change of the weights, gradients by autograd, and the spectrum written out."""
    net = Net()
    base = {n: p.detach() for n, p in net.named_parameters()}
    up = {n: torch.zeros(len(base[n]), 2).double() for n in down}
    for x, y in batches():
        factors = [t.detach().requires_grad_(True) for n in down for t in (down[n], up[n])]
        moved = {n: base[n] + factors[2 * i + 1] @ factors[2 * i] for i, n in enumerate(down)}
        loss = F.cross_entropy(torch.func.functional_call(net, {**base, **moved}, x), y)
        gradients = torch.autograd.grad(loss, factors)
        for i, n in enumerate(down):
            down[n] = factors[2 * i].detach() - lr * gradients[2 * i]
            up[n] = factors[2 * i + 1].detach() - lr * gradients[2 * i + 1]
    moved = {n: (base[n] + up[n] @ down[n]).requires_grad_(True) for n in down}
    loss = sum(F.cross_entropy(torch.func.functional_call(net, {**base, **moved}, x), y) for x, y in batches()) / 3
    new = {}
    for n, gradient in zip(down, torch.autograd.grad(loss, list(moved.values())), strict=True):
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        s[:q] = s[q - 1] ** 2 / s[:q].clone()
        new[n] = base[n] + scale * u @ s.diag() @ vh
    return new


def starts(seed: int, rank: int) -> dict[str, Tensor]:
    """The adapter's random factors."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"mlp.0.weight": 6, "mlp.2.weight": 9}
    return {n: (torch.randn(rank, width, generator=generator) / width**0.5).double() for n, width in sizes.items()}


def test_it_is_the_step_written_by_hand() -> None:
    net = Net()
    record = edit(net, scale=0.3, lr=0.5, rank=2, seed=4)
    expected = by_hand(0.3, 0.5, starts(4, 2), q=2)
    for name, p in net.named_parameters():
        before = dict(Net().named_parameters())[name]
        # The factors are float32.
        assert_close(p.detach(), expected.get(name, before.detach()), rtol=0, atol=1e-6 if name in expected else 0)
        assert torch.equal(p, before) == (name not in expected)
    assert record.tensors == 2
    assert record.settings["collapse"] == "SpectralCollapse(q=2, kind='both')"


def test_without_an_adapter_and_collapse_it_is_one_step_of_gradient_ascent() -> None:
    net, plain = Net(), Net()
    edit(net, scale=0.3, rank=0, collapse=SpectralCollapse(q=0, pattern="mlp"))
    loss = sum(F.cross_entropy(plain(x), y) for x, y in batches()) / 3
    wanted = [plain.mlp[0].weight, plain.mlp[2].weight]
    for p, gradient in zip(wanted, torch.autograd.grad(loss, wanted), strict=True):
        p.data.add_(gradient, alpha=0.3)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["hard", "soft", "both"])
def test_a_small_step_raises_the_forget_loss(kind: Any) -> None:
    """The collapsed gradient still goes up the loss whose gradient it is."""

    def loss(net: nn.Module) -> float:
        with torch.no_grad():
            return sum(float(F.cross_entropy(net(x), y)) for x, y in batches())

    net = Net()
    edit(net, scale=1e-2, rank=0, collapse=SpectralCollapse(q=2, kind=kind, pattern="mlp"))
    assert loss(net) > loss(Net())


def test_nothing_of_the_adapter_stays_and_frozen_layers_are_left_alone() -> None:
    net = Net()
    net.mlp[2].weight.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    edit(net)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert not any(m._forward_hooks for m in net.modules())
    assert torch.equal(net.mlp[2].weight, Net().mlp[2].weight)
    assert not torch.equal(net.mlp[0].weight, Net().mlp[0].weight)


def test_the_default_is_the_mlp_of_a_language_model() -> None:
    net = family("llama")
    RepSelect()(net, forget=[batch()], readout=CausalLMReadout())
    changed = {
        n for (n, p), q in zip(net.named_parameters(), family("llama").parameters(), strict=True) if (p != q).any()
    }
    assert changed == {f"model.layers.{i}.mlp.{part}_proj.weight" for i in (0, 1) for part in ("gate", "up", "down")}


def test_shards_become_what_the_whole_becomes() -> None:
    def there(rank: int, world: int) -> Any:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,))
        net = Net()
        fully_shard(net.mlp, mesh=mesh)
        fully_shard(net, mesh=mesh)
        edit(net, scale=0.3)
        return {n: p.full_tensor() for n, p in net.named_parameters() if isinstance(p, DTensor)}

    net = Net()
    edit(net, scale=0.3)
    for weights in run_ranks(there):
        for name, p in net.named_parameters():
            assert_close(weights[name], p.detach(), rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:`SpectralCollapse` should find a trained matrix")
def test_what_is_frozen_stays() -> None:
    net, frozen = Net(), Net().requires_grad_(False)
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.mlp[0].requires_grad_(False)
    edit(net)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, start[name])}
    assert moved
    assert not [name for name in moved if name.startswith("mlp.0")]
    with pytest.raises(ValueError, match="should find a trained matrix to change"):
        edit(frozen)


def test_what_it_cannot_work_on_is_refused() -> None:
    with pytest.raises(ValueError, match="should get forget batches and a readout.*Found 0 batches"):
        edit(Net(), forget=[])
    with pytest.raises(ValueError, match=r"should find a matrix whose name fits \['nobody'\]"):
        edit(Net(), collapse=SpectralCollapse(q=2, pattern="nobody"))
    with pytest.raises(NotImplementedError, match="a factor of an adapter"):
        RepSelect(collapse=SpectralCollapse(q=2))(adapted(family("llama")), forget=[batch()], readout=CausalLMReadout())
    with pytest.raises(TypeError, match="`collapse` should be a `SpectralCollapse`"):
        RepSelect(collapse="hard")  # type: ignore[arg-type]
