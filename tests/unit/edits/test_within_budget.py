"""`WithinBudget` takes an edit just as far as the budget allows."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from _language_models import batch, family
from _modules import SomebodysModule, loader, quiet
from _ranks import run_ranks
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from lightning_unlearn import ApplyEdit, DisruptionBudget
from lightning_unlearn.edits import Corrupt, Edit, RepSelect, WithinBudget
from lightning_unlearn.readouts import CausalLMReadout, ClassificationReadout, TrainingStepReadout
from lightning_unlearn.runtime import checksum
from lightning_unlearn.transforms import SpectralCollapse


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).to(dtype)


def neutral(dtype: torch.dtype = torch.float64) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 6, generator=generator).to(dtype), torch.zeros(5, dtype=torch.int64)) for _ in range(3)]


class Towards(Edit):
    """To other weights, by a share; counts how often it was asked."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self._asked = scale, 0

    def new_values(self, network: nn.Module, **data: Any) -> Any:
        self._asked += 1
        generator = torch.Generator().manual_seed(7)
        for name, p in network.named_parameters():
            yield name, p.detach() + self.scale * torch.randn(p.shape, generator=generator).to(p)


def divergence(net: nn.Module, original: nn.Module) -> float:
    x = torch.cat([inputs for inputs, _ in neutral()]).to(next(net.parameters()).dtype)
    with torch.no_grad():
        p, q = (each(x).double().softmax(-1) for each in (original, net))
    return float((p * (p / q).log()).sum(-1).mean())


def edit(net: nn.Module, inner: Edit, kl: float = 0.01, **settings: Any) -> Any:
    dtype = next(net.parameters()).dtype
    wrapped = WithinBudget(inner, kl=kl, neutral=neutral(dtype), **settings)
    return wrapped(net, forget=neutral(dtype), readout=ClassificationReadout())


@pytest.mark.parametrize("kl", [1e-5, 0.01, 0.3])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_between_95_and_100_percent_of_the_budget_is_spent(kl: float, scale: float) -> None:
    net = network()
    inner = Towards(scale)
    record = edit(net, inner, kl)
    assert 0.95 * kl <= divergence(net, network()) <= kl
    assert record.settings["spent"] == pytest.approx(divergence(net, network()), rel=1e-6)
    assert inner._asked == 1  # whatever the number of trials


def test_it_is_the_edit_at_the_scale_that_was_found() -> None:
    net, by_scale = network(), network()
    record = edit(net, Towards())
    Towards(record.settings["scale"])(by_scale)
    for p, q in zip(net.parameters(), by_scale.parameters(), strict=True):
        assert_close(p, q, rtol=0, atol=1e-6)  # directions are kept in float32
    assert record.edit == "WithinBudget"
    assert record.settings.items() >= {"edit": "Towards", "kl": 0.01, "edit.scale": 1.0}.items()


def test_the_budget_is_of_the_weights_as_they_are_rounded() -> None:
    net = network(torch.bfloat16)
    dtype = torch.bfloat16
    record = WithinBudget(Towards(), kl=0.3, neutral=neutral(dtype))(net, readout=ClassificationReadout())
    again = network(torch.bfloat16)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(7)
        for p in again.parameters():
            moved = (p + torch.randn(p.shape, generator=generator).to(p)).double() - p.double()
            p.copy_(p.double() + record.settings["scale"] * moved)  # from the original, rounded once
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_a_limit_is_not_passed_and_said() -> None:
    net = network()
    with pytest.warns(UserWarning, match="should spend at least 95 % of `kl = 5.0`. Found .* at scale 2"):
        record = edit(net, Corrupt(alpha=0.1), kl=5.0, limit=2.0)
    assert record.settings["scale"] == 2.0
    for p, q in zip(net.parameters(), network().parameters(), strict=True):
        assert_close(p, q * 0.8, rtol=1e-6, atol=1e-9)


def test_an_edit_that_changes_nothing_is_not_searched_for() -> None:
    net = network()
    before = checksum(net)
    record = edit(net, Towards(0.0))
    assert checksum(net) == before
    assert (record.elements, record.settings["spent"]) == (0, 0.0)


def test_an_error_while_searching_leaves_the_weights_as_they_were() -> None:
    class Fails(ClassificationReadout):
        calls = 0

        def __call__(self, network: nn.Module, batch: Any) -> Any:
            Fails.calls += 1
            if Fails.calls > 12:
                raise RuntimeError("the disk is full")
            return super().__call__(network, batch)

    net = network()
    before = checksum(net)
    with pytest.raises(RuntimeError, match="the disk is full"):
        WithinBudget(Towards(), neutral=neutral())(net, readout=Fails())
    assert Fails.calls == 13
    assert checksum(net) == before


def test_a_network_that_differs_from_itself_is_refused_before_the_search() -> None:
    generator = torch.Generator().manual_seed(1)

    class Restless(nn.Linear):
        """Draws from a generator of its own, in evaluation mode too."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + torch.rand((), generator=generator))

    net, inner = Restless(6, 4).double(), Towards()
    before = checksum(net)
    with pytest.raises(ValueError, match=r"Measured on the original itself, .* below 1e-06. Found .* by its logits"):
        edit(net, inner)
    assert inner._asked == 0
    assert checksum(net) == before


def test_rep_select_on_a_language_model_keeps_to_its_budget() -> None:
    net, original = family("llama").double(), family("llama").double()
    wrapped = WithinBudget(RepSelect(collapse=SpectralCollapse(q=2, pattern="mlp")), kl=0.01, neutral=[batch("left")])
    record = wrapped(net, forget=[batch()], readout=CausalLMReadout())
    with torch.no_grad():
        p, q = (CausalLMReadout()(each, batch("left")).logits.softmax(-1) for each in (original, net))
    assert 0.0095 <= float((p * (p / q).log()).sum(-1).mean()) <= 0.01
    assert record.tensors == 6


def test_in_a_fit_it_uses_the_retain_data_if_there_is_no_other_and_is_applied_once() -> None:
    module = SomebodysModule()
    callback, budget = ApplyEdit(WithinBudget(Shrink(), kl=0.01)), DisruptionBudget(loader(seed=1), kl=1e6)
    quiet(callbacks=[callback, budget], max_steps=1).fit(module, loader(seed=1))
    assert 0.0095 <= callback.record.settings["spent"] <= 0.01
    key = callback.state_key
    assert key == ApplyEdit(WithinBudget(Shrink(), kl=0.01)).state_key  # a resumed fit finds its state by it


class Shrink(Edit):
    def new_values(self, network: nn.Module, **data: Any) -> Any:
        for name, p in network.named_parameters():
            yield name, p.detach() * 0.5


def test_shards_become_what_the_whole_becomes() -> None:
    def there(rank: int, world: int) -> tuple[dict[str, Tensor], Any]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
        net = fully_shard(network(), mesh=init_device_mesh("cpu", (world,)))
        record = edit(net, Corrupt(alpha=0.3, beta=0.2))
        return {n: p.full_tensor() for n, p in net.named_parameters()}, record

    net = network()
    record = edit(net, Corrupt(alpha=0.3, beta=0.2))
    for weights, record_there in run_ranks(there):
        assert record_there.settings["scale"] == record.settings["scale"]
        for name, p in net.named_parameters():
            assert_close(weights[name], p.detach(), rtol=0, atol=1e-12)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="`WithinBudget` should get a readout"):
        WithinBudget(Towards(), neutral=neutral())(network())
    with pytest.raises(ValueError, match="by a readout that gives logits"):
        WithinBudget(Towards(), neutral=neutral())(network(), readout=TrainingStepReadout())
    with pytest.raises(TypeError, match=r"`edit` should be an `Edit`, such as `RepSelect\(\)`"):
        WithinBudget(Towards)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`limit` should be positive and finite"):
        WithinBudget(Towards(), limit=0)


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.Callback, "callback")
    inner = {"class_path": "lightning_unlearn.RepSelect", "init_args": {"rank": 4}}
    neutral = {
        "class_path": "lightning_unlearn.QuestionAnswerData",
        "init_args": {"records": {"path": "bundled:people"}},
    }
    edit = {"class_path": "lightning_unlearn.WithinBudget", "init_args": {"edit": inner, "neutral": neutral}}
    given = {"class_path": "lightning_unlearn.ApplyEdit", "init_args": {"edit": edit}}
    built = parser.instantiate_classes(parser.parse_object({"callback": given})).callback.edit
    assert (built.kl, built.edit.rank, built.needs_forget, built.needs_retain) == (0.01, 4, True, False)
