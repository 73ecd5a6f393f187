"""Blocks that are left as they were: the proximal step, its groups, and what a subgradient does not reach."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, loader, quiet, same
from _ranks import run_ranks
from _sharded_fits import fsdp2
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from lightning_unlearn import (
    GroupSparse,
    LoRA,
    SignGate,
    StepGuard,
    SubspaceGuard,
    TinyCausalLM,
    TrainOnly,
    UnlearningModule,
)
from lightning_unlearn.engine import gathered
from lightning_unlearn.functional.soft_threshold import group_factors
from lightning_unlearn.guards import NullSpace
from lightning_unlearn.readouts import CausalLMReadout

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


@pytest.mark.parametrize("length", [0.0, 0.3, 1.0, 2.5])
def test_the_factor_is_where_the_proximal_objective_is_least(length: float) -> None:
    """Along a ray everything else is orthogonal, so that the minimum is found by a search on a line."""
    threshold = 1.0

    def objective(factor: float) -> float:
        return 0.5 * ((factor - 1) * length) ** 2 + threshold * abs(factor) * length

    found = float(group_factors(torch.tensor([length], dtype=torch.float64), threshold)[0])
    if length:
        assert found == pytest.approx(minimize_scalar(objective, bounds=(0, 1), options={"xatol": 1e-9}).x, abs=1e-4)
    assert objective(found) <= min(objective(f / 100) for f in range(101)) + 1e-12


def test_a_group_of_zeros_has_no_nan_and_without_a_threshold_nothing_changes() -> None:
    assert torch.equal(group_factors(torch.zeros(2), 0.5), torch.zeros(2))
    assert torch.equal(group_factors(torch.zeros(2), 0.0), torch.ones(2))


def test_a_subgradient_never_reaches_zero_and_has_no_value_there_and_the_proximal_step_does() -> None:
    """What is published, beside what is done: by AdamW, on a group that nothing else pulls."""
    group = nn.Parameter(torch.full((4,), 0.1))
    optimizer = torch.optim.AdamW([group], lr=1e-2, weight_decay=0.0)
    for _ in range(500):
        optimizer.zero_grad()
        group.square().sum().sqrt().backward()
        optimizer.step()
    assert 0 < group.detach().norm() < 0.05
    zero = torch.zeros(4, requires_grad=True)
    zero.square().sum().sqrt().backward()
    assert zero.grad.isnan().all()

    shrunk = torch.full((4,), 0.1)
    for _ in range(50):
        shrunk = shrunk * group_factors(shrunk.norm()[None], 1e-2)[0]
    assert torch.equal(shrunk, torch.zeros(4))


# In a fit


class Quadratic(SomebodysModule):
    """Each block is pulled to its target by itself."""

    TARGETS = (0.05, 2.0, 0.0)

    def __init__(self) -> None:
        super().__init__()
        del self.body, self.unused, self.head
        self.body = nn.ModuleList(nn.Linear(3, 2, bias=False) for _ in self.TARGETS)
        self.outside = nn.Parameter(torch.ones(3))
        for layer, target in zip(self.body, self.TARGETS, strict=True):
            nn.init.constant_(layer.weight, target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        pairs = zip(self.body, self.TARGETS, strict=True)
        pulls = [0.5 * (layer.weight - target).square().sum() for layer, target in pairs]
        return torch.stack(pulls).sum() + 0.5 * (self.outside - 1).square().sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_the_fit_ends_where_the_sum_of_both_is_least_and_small_groups_are_zero_to_the_bit() -> None:
    """Of a quadratic and a group lasso: the target's length less alpha, or zero."""
    module, sparse = Quadratic(), GroupSparse(alpha=1.0)
    quiet(max_epochs=20, callbacks=[sparse]).fit(module, loader(seed=1))
    small, large, none = (layer.weight.detach() for layer in module.body)
    assert torch.equal(small, torch.zeros(2, 3))
    assert torch.equal(none, torch.zeros(2, 3))
    length = 2.0 * 6**0.5
    assert_close(large, torch.full((2, 3), 2.0) * (length - 1) / length, rtol=1e-4, atol=1e-4)
    assert torch.equal(module.outside.detach(), torch.ones(3))
    assert list(sparse.selected) == ["body.1"]


def test_before_the_warm_up_is_over_the_fit_is_as_without() -> None:
    bare = Quadratic()
    quiet(max_steps=4).fit(bare, loader(seed=1))
    for warmup, equal in ((4, True), (3, False)):
        module = Quadratic()
        quiet(max_steps=4, callbacks=[GroupSparse(alpha=1.0, warmup_steps=warmup)]).fit(module, loader(seed=1))
        assert torch.equal(module.body[1].weight, bare.body[1].weight) is equal


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("warmup", [0, 8])
def test_a_resumed_fit_is_the_uninterrupted_one_also_if_it_is_cut_within_the_warm_up(
    warmup: int, tmp_path: Path
) -> None:
    """A warm-up that began anew would end two steps after the fit."""

    def fit(folder: str, **kwargs: Any) -> tuple[Quadratic, GroupSparse]:
        module, sparse = Quadratic(), GroupSparse(alpha=0.5, warmup_steps=warmup)
        saved = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = quiet(callbacks=[sparse, saved], enable_checkpointing=True, max_epochs=2)
        trainer.fit(module, loader(seed=1), **kwargs)
        return module, sparse

    whole, sparse = fit("whole")
    resumed, again = fit("again", ckpt_path=tmp_path / "whole" / "step=6.ckpt")
    assert same(whole, resumed)
    assert again.selected == sparse.selected
    assert "body.0" not in again.selected


def language_model(alpha: float, **kwargs: Any) -> tuple[Any, GroupSparse]:
    network = LoRA(r=2, target_modules=["up_proj", "down_proj"]).wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=3))
    sparse = GroupSparse(alpha=alpha)
    fit(network, sparse, **kwargs)
    return network, sparse


def fit(network: Any, sparse: GroupSparse, **kwargs: Any) -> None:
    module = UnlearningModule(network, readout=CausalLMReadout(), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    tokens = torch.randint(5, 600, (8, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    quiet(callbacks=[sparse], **kwargs).fit(module, torch.utils.data.DataLoader(rows, batch_size=2))


def test_of_an_adapter_the_groups_are_blocks_and_both_factors_count() -> None:
    network, sparse = language_model(alpha=1.0, max_steps=2)
    assert {name.rpartition("layers.")[2] for name in sparse.selected} == {"0", "1", "2"}
    for name, length in sparse.selected.items():
        factors = [p for n, p in network.named_parameters() if f"layers.{name[-1]}." in n and "lora_" in n]
        assert len(factors) == 4
        assert length == pytest.approx(torch.cat([p.detach().flatten() for p in factors]).norm().item(), rel=1e-5)


def test_with_enough_of_it_no_block_is_left_and_the_network_is_the_original_to_the_bit() -> None:
    network, sparse = language_model(alpha=300.0, max_steps=4)
    assert sparse.selected == {}
    tokens = torch.arange(5, 12)[None]
    with network.disable_adapter():
        original = network(input_ids=tokens).logits
    assert torch.equal(network(input_ids=tokens).logits, original)
    assert all(p.isfinite().all() for p in network.parameters())


def test_trained_copies_of_modules_are_not_shrunk() -> None:
    lora = LoRA(r=2, target_modules=["up_proj"], modules_to_save=["down_proj"])
    network = lora.wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=2))
    fit(network, GroupSparse(alpha=1e6), max_steps=2)
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name, p in named.items() if not p.any()} == {name for name in named if "lora_" in name}
    assert any("modules_to_save" in name for name in named)


def test_dora_is_refused_by_name() -> None:
    lora = LoRA(r=2, use_dora=True, target_modules=["up_proj"])
    with pytest.raises(NotImplementedError, match="Found `.*lora_magnitude_vector.*Use plain LoRA"):
        fit(lora.wrap(TinyCausalLM(hidden_size=16, num_hidden_layers=2)), GroupSparse())


@pytest.mark.parametrize("guard", [StepGuard, SignGate, partial(SubspaceGuard, NullSpace())])
@pytest.mark.parametrize("order", [1, -1])
def test_beside_a_guard_it_is_refused_by_name(guard: Any, order: int) -> None:
    beside = guard(retain=loader(seed=2))
    callbacks = [GroupSparse(), beside][::order]
    with pytest.raises(
        NotImplementedError, match=f"Found `{type(beside).__name__}` beside it.* Leave one of the two out"
    ):
        quiet(max_steps=1, callbacks=callbacks).fit(Quadratic(), loader(seed=1))


def test_what_trainonly_keeps_is_not_shrunk() -> None:
    module = Quadratic()
    quiet(max_steps=3, callbacks=[GroupSparse(alpha=1.0), TrainOnly("body.0.*")]).fit(module, loader(seed=1))
    assert torch.equal(module.body[1].weight, torch.full((2, 3), 2.0))
    assert torch.equal(module.body[0].weight, torch.zeros(2, 3))


def test_a_fit_without_groups_is_refused() -> None:
    module = Quadratic()
    module.lora_A = nn.Linear(3, 2)  # an adapter, but outside of the blocks
    with pytest.raises(ValueError, match="Found 6 trained parameters, none of them in one of 3 blocks. Put an adapter"):
        quiet(callbacks=[GroupSparse()]).fit(module, loader(seed=1))


def test_where_all_blocks_are_frozen_a_warning_says_so() -> None:
    class Flat(Quadratic):
        def __init__(self) -> None:
            super().__init__()
            self.body.requires_grad_(False)

    with pytest.warns(UserWarning, match="Found 1 trained parameters, none of them in one of 3 blocks"):
        quiet(callbacks=[GroupSparse()]).fit(Flat(), loader(seed=1))


class Sharded(Quadratic):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for layer in self.body:
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # Through the layers, which FSDP gathers: the same quadratic, by its outputs.
        eye = torch.eye(3)
        pairs = zip(self.body, self.TARGETS, strict=True)
        return torch.stack([0.5 * (layer(eye) - target).square().sum() for layer, target in pairs]).sum()


class Replicated(Sharded):
    def configure_model(self) -> None:
        self.outside.requires_grad_(False)


class Halves(Sharded):
    def configure_model(self) -> None:
        self.outside.requires_grad_(False)
        super().configure_model()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_shrink_as_one_does(kind: str) -> None:
    def run(rank: int, world: int) -> Any:
        module: Any = Halves() if kind == "fsdp2" and world > 1 else Replicated()
        strategy: Any = "auto"
        if world > 1:
            strategy = DDPStrategy() if kind == "ddp" else fsdp2(False)
        sparse = GroupSparse(alpha=1.0)
        quiet(max_steps=5, callbacks=[sparse], strategy=strategy, devices=world).fit(module, loader(seed=1, n=48))
        return sparse.selected, [gathered(layer.weight).detach() for layer in module.body]

    selected, weights = run(0, 1)
    for found, there in run_ranks(run):
        assert found.keys() == selected.keys()
        for one, other in zip(there, weights, strict=True):
            assert_close(one, other)
