"""Forgetting by an optimizer of its own in two real processes: equal to one process, and resumed from one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _guarded_fits import NAMES
from _modules import SomebodysModule, quiet
from _private_optimizers import OWN
from _ranks import run_ranks
from _sharded_fits import SAVING, STRATEGIES, AllUsed, data, loader, whole
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_unlearn import Bounded, ClassificationReadout, GradientAscent, Prediction, Readout, Unlearn
from lightning_unlearn.callbacks import StepGuard
from lightning_unlearn.guards import MicroBatches, Monitor, NoChange, NoIncrease, OptimizerMetric, Rule
from lightning_unlearn.runtime import local

pytestmark = pytest.mark.slow  # two processes each; `test_distributed.py` has one fit of every kind in `make test`

Fitted = tuple[dict[str, Tensor], dict[str, float]]


def fit(
    kind: str | None,
    rank: int,
    world_size: int,
    own: str,
    guard: dict[str, Any] | None = None,
    exact: bool = False,
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
    trainer = quiet(
        strategy=strategy(),
        devices=world_size,
        callbacks=callbacks,
        accumulate_grad_batches=2,
        use_distributed_sampler=False,
        max_epochs=2,
    )
    trainer.fit(module, loader(data(1, 32, exact), rank, world_size))
    steps = trainer.global_step
    assert unlearn._steps == {"merged": steps, "taken": steps}
    if guard is not None:
        assert callbacks[0]._steps == {"taken": steps, "transformed": steps, "fallbacks": 0}
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
    without, _ = fit(None, 0, 1, own, None if guard is None else {"rule": Monitor()}, exact)
    start = dict(SomebodysModule().named_parameters())
    other = start if guard is None else without
    assert any(not torch.equal(other[name], expected[name].to(other[name].dtype)) for name in expected)


@pytest.mark.parametrize("own", ["momentum", "adamw"])
@pytest.mark.parametrize("kind", STRATEGIES)
def test_two_processes_equal_one(kind: str, own: str) -> None:
    assert_equal_to_one_process(kind, own, guard=None)


@pytest.mark.parametrize(("rule", "scope"), [(NoIncrease(), "parameter"), (NoChange(), "global")], ids=str)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_under_every_rule(kind: str, rule: Rule, scope: Any) -> None:
    assert_equal_to_one_process(kind, "adamw", {"rule": rule, "scope": scope})


@pytest.mark.parametrize("rule", [NoIncrease(), NoChange()], ids=repr)
def test_flat_shards(rule: Rule) -> None:
    assert_equal_to_one_process("fsdp1", "momentum", {"rule": rule})


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_in_the_forget_optimizers_metric(kind: str) -> None:
    """In float64: where a gradient is nearly zero, Adam, and so its metric, makes much of the last digit of float32."""
    guard = {"rule": NoChange(), "geometry": OptimizerMetric(), "directions": MicroBatches()}
    assert_equal_to_one_process(kind, "adamw", guard, exact=True)


class BodyOnly(ClassificationReadout):
    """Forgets in a part of the network: the head has no forget gradient, and so no state."""

    def __call__(self, network: torch.nn.Module, batch: Any) -> Prediction:
        seen: list[Tensor] = []
        handle = network.body.register_forward_hook(lambda module, inputs, output: seen.append(output))
        prediction = super().__call__(network, batch)  # through the root, which gathers what it holds itself
        handle.remove()
        return replace(prediction, logits=seen[0])


def run(
    kind: str,
    own: str,
    folder: Path,
    ckpt_path: Path | None = None,
    readout: Readout | None = None,
    **kwargs: Any,
) -> list[list[Tensor]]:
    """What each process holds of the weights after the fit."""

    def one(rank: int, world_size: int) -> list[Tensor]:
        module_class, strategy = SAVING[kind]
        module = module_class()
        forget = DataLoader(data(2, 12, exact=False), batch_size=8 // world_size)
        objective = Bounded(GradientAscent(), bound=4.0)
        callbacks = [
            StepGuard(NoChange()),
            Unlearn(objective, readout, forget=forget, weight=3.0, optimizer=OWN[own]),
            ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"),
        ]
        trainer = quiet(
            strategy=strategy(),
            devices=world_size,
            callbacks=callbacks,
            use_distributed_sampler=False,
            enable_checkpointing=True,
            **{"max_epochs": 2, **kwargs},
        )
        trainer.fit(module, loader(data(1, 32, exact=False), rank, world_size), ckpt_path=ckpt_path)
        steps = trainer.global_step
        assert callbacks[0]._steps == {"taken": steps, "transformed": steps, "fallbacks": 0}
        return [local(p).detach().clone() for p in module.parameters()]

    return [one(0, 1)] if kind == "single" else run_ranks(one)


def saved_state(checkpoint: Path) -> dict[int, dict[str, Any]]:
    whole_file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    callbacks = torch.load(whole_file, weights_only=True)["callbacks"]
    (state,) = [v["optimizer"]["state"] for k, v in callbacks.items() if k.startswith("Unlearn")]
    return state


@pytest.mark.filterwarnings("ignore")  # torch's own, about its first FSDP
@pytest.mark.parametrize(
    ("kind", "own"),
    [("ddp", "momentum"), ("fsdp2", "momentum"), ("fsdp2", "plain")]
    + [(kind, "adamw") for kind in SAVING if kind != "single"],
)
@pytest.mark.usefixtures("device_semantics")
def test_resumed_equals_uninterrupted(kind: str, own: str, tmp_path: Path) -> None:
    """The state is in the checkpoint, whole, in torch's own form."""
    path = tmp_path / "whole" / "step=4.ckpt"  # the end of an epoch: what comes in its middle Lightning does not skip
    uninterrupted = run(kind, own, tmp_path / "whole")
    resumed = run(kind, own, tmp_path / "resumed", path)
    for a, b in zip(uninterrupted, resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    moments = [v for s in saved_state(path).values() for v in s.values() if v is not None and v.dim()]
    assert {v.shape for v in moments} <= {p.shape for p in AllUsed().parameters()}
    assert len(moments) == {"plain": 0, "momentum": 6, "adamw": 12}[own]
    final = saved_state(tmp_path / "whole" / "step=8.ckpt")
    again = saved_state(tmp_path / "resumed" / "step=8.ckpt")
    assert all(torch.equal(v, again[i][name]) for i in final for name, v in final[i].items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
@pytest.mark.usefixtures("device_semantics")
def test_what_is_not_reached_by_forgetting_has_no_state_to_resume(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "whole" / "step=4.ckpt"
    uninterrupted = run(kind, "adamw", tmp_path / "whole", readout=BodyOnly())
    resumed = run(kind, "adamw", tmp_path / "resumed", path, readout=BodyOnly())
    for a, b in zip(uninterrupted, resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for checkpoint in (path, tmp_path / "resumed" / "step=8.ckpt"):
        assert set(saved_state(checkpoint)) == {0, 1, 2, 3}  # weights and biases of the body


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("saved", "resumed"), [("single", "fsdp2"), ("fsdp2", "single")], ids=str)
def test_resumed_under_another_strategy(saved: str, resumed: str, tmp_path: Path) -> None:
    uninterrupted = run(resumed, "adamw", tmp_path / "whole")
    run(saved, "adamw", tmp_path / "first", max_steps=4)
    found = run(resumed, "adamw", tmp_path / "second", tmp_path / "first" / "step=4.ckpt")
    for a, b in zip(uninterrupted, found, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y, rtol=0, atol=1e-6)
