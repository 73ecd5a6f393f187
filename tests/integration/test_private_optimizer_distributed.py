"""Forgetting by an optimizer of its own in two real processes: equal to one process, and resumed from one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from _modules import SomebodysModule, quiet
from _ranks import run_ranks
from lightning.pytorch.callbacks import ModelCheckpoint
from test_distributed import STRATEGIES, whole
from test_private_optimizer import OWN
from test_step_guard_distributed import NAMES, data, loader
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, GradientAscent, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.guards import Cone, MicroBatches, Null, OptimizerMetric, Rule, Watch

Fitted = tuple[dict[str, Tensor], dict[str, float]]


def fit(
    kind: str | None,
    rank: int,
    world_size: int,
    own: str,
    guard: dict[str, Any] | None = None,
    exact: bool = False,
    folder: Path | None = None,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> Fitted:
    module_class, strategy = STRATEGIES[kind] if kind else (SomebodysModule, lambda: "auto")
    module = module_class("adamw")
    if exact:
        module.double()
    unlearn = Unlearn(
        Bounded(GradientAscent(), bound=4.0),
        forget=DataLoader(data(2, 12, exact), batch_size=8 // world_size),
        weight=3.0,
        optimizer=OWN[own],
    )
    callbacks: list[Any] = [unlearn] if guard is None else [StepGuard(**guard), unlearn]
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"))
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=callbacks,
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        enable_checkpointing=folder is not None,
        **{"max_epochs": 2, **kwargs},
    )
    trainer.fit(module, loader(data(1, 32, exact), rank, world_size), ckpt_path=ckpt_path)
    steps = trainer.global_step
    assert unlearn._steps == {"merged": steps, "taken": steps}
    if guard is not None:
        assert callbacks[0]._steps == {"taken": steps, "guarded": steps, "fallbacks": 0}
    names = [f"guard/{name}" for name in NAMES] if guard else []
    logged = ["unlearn/forget", "unlearn/cosine", "unlearn/forget_norm", "unlearn/retain_norm", *names]
    return whole(module, kind), {name: float(trainer.callback_metrics[name]) for name in logged}


def assert_equal_to_one_process(kind: str, own: str, guard: dict[str, Any] | None, exact: bool = False) -> None:
    expected, logged = fit(None, 0, 1, own, guard, exact)
    for parameters, logged_there in run_ranks(lambda rank, world: fit(kind, rank, world, own, guard, exact)):
        for name, value in expected.items():
            if kind == "fsdp1" and name == "unused":
                continue  # FSDP1 gives unused parameters a zero gradient, so they decay, with or without us
            assert_close(
                parameters[name], value, rtol=0, atol=1e-9 if exact else 1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )
        for name, value in logged.items():
            assert logged_there[name] == pytest.approx(value, abs=2e-6, rel=1e-4), name
    without, _ = fit(None, 0, 1, own, None if guard is None else {"rule": Watch()}, exact)
    start = dict(SomebodysModule().named_parameters())
    other = start if guard is None else without
    assert any(not torch.equal(other[name], expected[name].to(other[name].dtype)) for name in expected)


@pytest.mark.parametrize("own", ["momentum", "adamw"])
@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_processes_equal_one(kind: str, own: str) -> None:
    assert_equal_to_one_process(kind, own, guard=None)


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("rule", [Cone(), Null()], ids=repr)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_under_every_rule(kind: str, rule: Rule, scope: Any) -> None:
    assert_equal_to_one_process(kind, "adamw", {"rule": rule, "scope": scope})


@pytest.mark.parametrize("rule", [Cone(), Null()], ids=repr)
def test_flat_shards(rule: Rule) -> None:
    assert_equal_to_one_process("fsdp1", "momentum", {"rule": rule})


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_in_the_forget_optimizers_metric(kind: str) -> None:
    """In float64: where a gradient is nearly zero, Adam, and so its metric, makes much of the last digit of float32."""
    guard = {"rule": Null(), "geometry": OptimizerMetric(), "directions": MicroBatches()}
    assert_equal_to_one_process(kind, "adamw", guard, exact=True)


RESUMED = [(kind, own) for kind in ("ddp", "fsdp2", "fsdp1") for own in ("momentum", "adamw")] + [("fsdp2", "plain")]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("kind", "own"), RESUMED)
def test_resumed_equals_uninterrupted(kind: str, own: str, tmp_path: Path) -> None:
    """The state is in the checkpoint, whole, in torch's own form; without it the resumed fit is another."""
    path = tmp_path / "first" / "step=2.ckpt"
    guard = {"rule": Null()}

    def run(rank: int, world: int, folder: str, **kwargs: Any) -> Fitted:
        return fit(kind, rank, world, own, guard, folder=tmp_path / folder, **kwargs)

    uninterrupted = run_ranks(lambda rank, world: run(rank, world, "whole"))
    run_ranks(lambda rank, world: run(rank, world, "first", max_steps=2))
    checkpoint = torch.load(path, weights_only=True)
    (state,) = [v["optimizer"] for k, v in checkpoint["callbacks"].items() if k.startswith("Unlearn")]
    shapes = {tuple(p.shape) for p in SomebodysModule().parameters()}
    moments = [v for s in state["state"].values() for v in s.values() if v is not None and v.dim()]
    assert {tuple(v.shape) for v in moments} <= shapes
    assert len(moments) >= {"plain": 0, "momentum": 6, "adamw": 12}[own]

    resumed = run_ranks(lambda rank, world: run(rank, world, "second", ckpt_path=path))
    for (a, _), (b, _) in zip(uninterrupted, resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    if own == "plain":
        return  # which has no state
    state.clear()
    torch.save(checkpoint, path)
    for (a, _), (b, _) in zip(uninterrupted, run_ranks(lambda r, w: run(r, w, "third", ckpt_path=path)), strict=True):
        assert not all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("saved", "resumed"), [(None, "fsdp2"), ("fsdp2", None)], ids=str)
def test_resumed_under_another_strategy(saved: str | None, resumed: str | None, tmp_path: Path) -> None:
    def run(kind: str | None, folder: str, **kwargs: Any) -> Fitted:
        def one(rank: int, world: int) -> Fitted:
            return fit(kind, rank, world, "adamw", folder=tmp_path / folder, **kwargs)

        return run_ranks(one)[0] if kind else one(0, 1)

    expected, _ = run(None, "whole")
    run(saved, "first", max_steps=2)
    found, _ = run(resumed, "second", ckpt_path=tmp_path / "first" / "step=2.ckpt")
    for name, value in expected.items():
        assert_close(found[name], value, rtol=0, atol=1e-6)
