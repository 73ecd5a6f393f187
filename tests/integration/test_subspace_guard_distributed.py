"""A guarded fit in two real processes equals the one in one process, replicated or sharded by rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from _modules import Restored, SomebodysModule, examples, quiet
from _ranks import run_ranks
from _sharded_fits import STRATEGIES, whole
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.testing import assert_close
from torch.utils.data import DataLoader, DistributedSampler

from lightning_unlearn import Bounded, GradientAscent, SubspaceGuard, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.guards import InputSubspace, NoChange, NullSpace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:All trained parameters should be protected")]


def fit(
    kind: str | None, rank: int, world_size: int, subspace: Any, own: bool, cone: bool = False, state: Any = None
) -> tuple[Any, dict[str, float], dict[str, Any]]:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class("adamw")
    size = 8 // world_size
    retain = {} if own else {"retain": DataLoader(examples(5, 4 * 8), batch_size=size)}
    guard = SubspaceGuard(subspace, batches=4, **retain)
    forget = DataLoader(examples(2, n=16), batch_size=size)
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=[
            Unlearn(Bounded(GradientAscent(), bound=4.0), forget=forget, weight=10.0),
            *([] if state is None else [Restored(guard, state)]),
            guard,
            *([StepGuard(NoChange())] if cone else []),
        ],
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        max_epochs=2,
    )
    data = examples(1, 32)
    sampler = DistributedSampler(data, world_size, rank, shuffle=False)
    trainer.fit(module, DataLoader(data, batch_size=size, sampler=sampler))
    assert guard._steps == ({"taken": 4, "transformed": 4} if state is None else {"taken": 5, "transformed": 5})
    logged = {name: float(trainer.callback_metrics[f"subspace/{name}"]) for name in ("kept", "action")}
    return whole(module, kind), logged, guard.state_dict()["bases"]


@pytest.mark.parametrize(
    ("subspace", "own"),
    [(NullSpace(0.3), True), (NullSpace(0.3), False), (InputSubspace(0.8), True), (InputSubspace(1.0, rank=3), False)],
)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str, subspace: Any, own: bool) -> None:
    assert_equal_to_one_process(kind, subspace, own)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_beside_the_other_guard_too(kind: str) -> None:
    assert_equal_to_one_process(kind, NullSpace(0.3), own=True, cone=True)


def assert_equal_to_one_process(kind: str, subspace: Any, own: bool, cone: bool = False) -> None:
    expected, logged, bases = fit(None, 0, 1, subspace, own, cone)
    ranks = run_ranks(lambda rank, world: fit(kind, rank, world, subspace, own, cone))
    for parameters, there, found in ranks:
        for name, value in expected.items():
            assert_close(parameters[name], value, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        assert there["kept"] == pytest.approx(logged["kept"], rel=1e-4)
        assert there["action"] < 1e-5
        assert set(found) == set(bases) == {"body.0", "head"}
        for name in bases:
            assert torch.equal(found[name]["basis"], ranks[0][2][name]["basis"])
            assert found[name]["basis"].shape == bases[name]["basis"].shape
    start = dict(SomebodysModule("adamw").named_parameters())
    assert (
        max(float((expected[name] - start[name].detach()).abs().max()) for name in ("body.0.weight", "head.weight"))
        > 1e-2
    )


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_bases_of_a_checkpoint_serve_every_process(kind: str) -> None:
    """A checkpoint holds the callbacks of the first process; with its bases the fit is the same, to the bit."""
    (first, _, bases), (other, _, _) = run_ranks(lambda r, world: fit(kind, r, world, NullSpace(0.3), own=False))
    state = {"steps": {"taken": 1, "transformed": 1}, "bases": bases}
    for again, _, found in run_ranks(
        lambda r, world: fit(kind, r, world, InputSubspace(0.1), own=False, state=state)  # would find others
    ):
        assert all(torch.equal(again[name], first[name]) and torch.equal(first[name], other[name]) for name in first)
        assert all(torch.equal(found[name]["basis"], bases[name]["basis"]) for name in bases)


def test_weights_gathered_by_a_sanity_check_are_still_found() -> None:
    class Validated(SomebodysModule):
        """All in one group, which stays gathered after a forward pass without a graph."""

        def configure_model(self) -> None:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

    def run(rank: int, world_size: int) -> Any:
        data = DataLoader(examples(5, 16), batch_size=4)
        guard = SubspaceGuard(NullSpace(0.3), retain=data, batches=2)
        trainer = quiet(strategy=STRATEGIES["fsdp2"][1](), devices=2, callbacks=[guard], num_sanity_val_steps=1)
        trainer.fit(Validated("adamw"), data, data)
        return sorted(guard.state_dict()["bases"]), guard._steps

    assert run_ranks(run) == [(["body.0", "head"], {"taken": 2, "transformed": 2})] * 2


def test_weights_that_are_sharded_over_inputs_are_refused_by_name() -> None:
    class ByInputs(SomebodysModule):
        def configure_model(self) -> None:
            def place(p: nn.Parameter) -> Any:
                return Shard(1) if p.dim() == 2 else None

            fully_shard(self, mesh=self.device_mesh["data_parallel"], shard_placement_fn=place)

    def run(rank: int, world_size: int) -> str:
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
        guard = SubspaceGuard(NullSpace(), retain=DataLoader(examples(5, 16), batch_size=8))
        trainer = quiet(strategy=strategy, devices=world_size, callbacks=[guard])
        with pytest.raises(NotImplementedError) as raised:
            trainer.fit(ByInputs("adamw"), DataLoader(examples(1, 16), batch_size=8))
        return str(raised.value)

    for message in run_ranks(run):
        assert message.startswith("`body.0` should be sharded over its outputs")
        assert "placements = (Shard(dim=1),)" in message
